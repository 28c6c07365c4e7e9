/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of 640 x 480 in RGB565 from standard input, one after the other, each with a person in the middle. */
#include <stdio.h>

#include "board.h"

static uint8_t pixels[2 * BOARD_WIDTH * BOARD_HEIGHT];

int board_person(reid_frame *frame, reid_box *box) {
  const reid_frame given = {pixels, BOARD_WIDTH, BOARD_HEIGHT, 2 * BOARD_WIDTH, REID_RGB565, 0};
  const reid_box middle = {BOARD_WIDTH / 2 - 100, 40, 200, 400};
  *frame = given;
  *box = middle;
  return fread(pixels, 1, sizeof pixels, stdin) == sizeof pixels;
}

void board_answer(reid_match found, int is_same) {
  if (!found.identity)
    printf("enrolled\n");
  else
    printf("%s, distance %.4f\n", is_same ? "the same" : "another", found.distance / 32768.0);
}
