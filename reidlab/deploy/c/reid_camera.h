/* SPDX-License-Identifier: Apache-2.0 */
/* From a camera's frame to the network's image: a crop, converted to RGB row by row while it is resized by reid_resize.h.
 *
 *     static uint32_t work[REID_CROP_WORDS(480, 640, REID_IMAGE_HEIGHT, REID_IMAGE_WIDTH)];  // any crop of 640 x 480
 *     reid_frame frame = {pixels, 640, 480, 2 * 640, REID_RGB565, 0};
 *     reid_crop(&frame, person, image, REID_IMAGE_HEIGHT, REID_IMAGE_WIDTH, work, sizeof work / 4);
 */
#ifndef REID_CAMERA_H
#define REID_CAMERA_H

#include "reid_resize.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  REID_RGB888,      /* 3 bytes a pixel */
  REID_RGB565,      /* 2 bytes, the lower one first, as a little-endian processor reads them: DCMI */
  REID_RGB565_BIG,  /* the upper byte first: ESP32-CAM */
  REID_YUYV,        /* YUV 4:2:2 of BT.601, two pixels in 4 bytes, Y U Y V; an even width */
  REID_UYVY         /* U Y V Y */
} reid_format;

typedef struct {
  const uint8_t *pixels;
  int width, height;
  int32_t stride;   /* bytes from one row to the next */
  reid_format format;
  int is_limited;   /* YUV: 0 for Y from 0 to 255 (as in JPEG), 1 for Y from 16 to 235 (as on TV) */
} reid_frame;

typedef struct {
  int left, top, width, height;
} reid_box;

/* One pixel as R, G, B. */
void reid_pixel(const reid_frame *frame, int x, int y, uint8_t rgb[3]);

/* Words of work memory, as a constant, for crops of up to height x width. */
#define REID_CROP_WORDS(height, width, new_height, new_width) \
  (REID_RESIZE_WORDS(height, width, new_height, new_width) + (3 * (width) + 3) / 4)

/* The part of a box, such as a detector's, that lies in the frame; its width or height is 0 where none does. */
reid_box reid_clip(const reid_frame *frame, reid_box box);

/* Resize a crop of the frame to `to`, new_height x new_width x 3 bytes. 0, or -1 where the box isn't in the frame or the
 * work memory is too small. */
int reid_crop(const reid_frame *frame, reid_box box, uint8_t *to, int new_height, int new_width, uint32_t *work,
              uint32_t words);

#ifdef __cplusplus
}
#endif

#endif
