/* SPDX-License-Identifier: Apache-2.0 */
/* Watches a camera: the first person in view is enrolled, and each later one is compared with them. The board gives frames,
 * a detector's boxes and a place for the answer: board.h. */
#include "board.h"
#include "reid.h"
#include "reid_camera.h"
#include "reid_gallery.h"

#ifndef REID_COSINE_THRESHOLD
#define REID_COSINE_THRESHOLD 0.3f /* none is calibrated for this network: choose one on pairs of your own */
#endif

enum { IDENTITIES = 32, WORDS = REID_CROP_WORDS(BOARD_HEIGHT, BOARD_WIDTH, REID_IMAGE_HEIGHT, REID_IMAGE_WIDTH) };

static uint32_t work[WORDS], memory[REID_GALLERY_WORDS(IDENTITIES, REID_EMBEDDING_SIZE, 1)];
static uint8_t image[REID_IMAGE_BYTES];
static int8_t codes[REID_EMBEDDING_SIZE];
#if !REID_STATIC_ARENA
static uint64_t arena[(REID_ARENA_BYTES + 7) / 8];
#endif

static int embed(const reid_frame *frame, reid_box person) {
  if (reid_crop(frame, reid_clip(frame, person), image, REID_IMAGE_HEIGHT, REID_IMAGE_WIDTH, work, WORDS)) return -1;
#if REID_STATIC_ARENA
  reid_run_codes(image, codes);
#else
  reid_run_codes_in(arena, image, codes);
#endif
  return 0;
}

int main(void) {
  reid_gallery gallery;
  reid_frame frame;
  reid_box person;
  if (reid_init()) return 1; /* the flash image is damaged */
  reid_gallery_init(&gallery, memory, IDENTITIES, REID_EMBEDDING_SIZE, 1, REID_EMBEDDING_ZERO);
  while (board_person(&frame, &person)) {
    if (embed(&frame, person)) continue; /* the box isn't in the frame */
    const reid_match found = reid_identify(&gallery, codes);
    if (!found.identity) reid_enroll(&gallery, codes);
    board_answer(found, found.identity && found.distance <= REID_UNITS(REID_COSINE_THRESHOLD));
  }
  return 0;
}
