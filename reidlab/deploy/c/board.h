/* SPDX-License-Identifier: Apache-2.0 */
/* What main.c needs of a board; board_host.c is a computer in place of one. */
#ifndef BOARD_H
#define BOARD_H

#include "reid_camera.h"
#include "reid_gallery.h"

enum { BOARD_WIDTH = 640, BOARD_HEIGHT = 480 }; /* the largest frame */

#ifdef __cplusplus
extern "C" {
#endif

/* Wait for a person in view: the camera's frame and a detector's box. 0 to end. */
int board_person(reid_frame *frame, reid_box *box);

/* Show the nearest enrolled identity, and whether it is this one. */
void board_answer(reid_match found, int is_same);

#ifdef __cplusplus
}
#endif

#endif
