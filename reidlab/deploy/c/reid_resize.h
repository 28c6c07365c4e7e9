/* SPDX-License-Identifier: Apache-2.0 */
/* Bilinear resize with antialiasing of RGB images, rows first: byte for byte Pillow's Image.resize(..., BILINEAR), which
 * the network's images were prepared by. Integers alone run over the pixels; the weights of each row and column are worked
 * out in double precision first. C99, no heap, of the C library nothing.
 *
 *     static uint32_t work[REID_RESIZE_WORDS(768, 384, REID_IMAGE_HEIGHT, REID_IMAGE_WIDTH)];
 *     reid_resize(photo, 768, 384, 3 * 384, image, REID_IMAGE_HEIGHT, REID_IMAGE_WIDTH, work, sizeof work / 4);
 *     reid_run(image, embedding);
 */
#ifndef REID_RESIZE_H
#define REID_RESIZE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Words of work memory that a resize needs, as a constant; the largest size's are enough for all below it. */
#define REID_RESIZE_TAPS(size, new_size) ((size) <= (new_size) ? 3 : 2 * (((size) + (new_size) - 1) / (new_size)) + 1)
#define REID_RESIZE_WORDS(height, width, new_height, new_width)                                              \
  ((new_width) * (2 + REID_RESIZE_TAPS(width, new_width)) + (new_height) * (2 + REID_RESIZE_TAPS(height, new_height)) + \
   (REID_RESIZE_TAPS(height, new_height) * 3 * (new_width) + 3) / 4)

/* The same, checked: 0 for a size that isn't between 1 and 8191. */
uint32_t reid_resize_words(int height, int width, int new_height, int new_width);

/* from: rows of RGB pixels, the first bytes of two rows `stride` apart; to: new_height x new_width x 3 bytes, packed.
 * A crop is resized in place in its frame: point to its first pixel, stride is the frame's.
 * 0, or -1 where `words` is too few, or a size isn't between 1 and 8191. */
int reid_resize(const uint8_t *from, int height, int width, int32_t stride, uint8_t *to, int new_height, int new_width,
                uint32_t *work, uint32_t words);

/* A function that gives row y of a source as RGB pixels, which need to last until its next call. */
typedef const uint8_t *reid_row(const void *source, int y);

/* The same of rows that are made one by one, in order. */
int reid_resize_rows(reid_row *row, const void *source, int height, int width, uint8_t *to, int new_height,
                     int new_width, uint32_t *work, uint32_t words);

#ifdef __cplusplus
}
#endif

#endif
