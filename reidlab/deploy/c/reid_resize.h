/* Bilinear resize with antialiasing of RGB images, rows first: byte for byte Pillow's Image.resize(..., BILINEAR), which
 * the network's images were prepared by. Integers alone run over the pixels; the weights of each row and column are worked
 * out in double precision first. C99, no heap, of the C library nothing. Compile reid_resize.c with -ffp-contract=off:
 * fused multiply-adds round otherwise, and may change a byte by one.
 *
 *     static uint32_t work[WORDS];                      // reid_resize_words(...) says how many a pair of sizes needs
 *     reid_resize(photo, 768, 384, 3 * 384, image, REID_IMAGE_HEIGHT, REID_IMAGE_WIDTH, work, WORDS);
 *     reid_run(image, embedding);
 */
#ifndef REID_RESIZE_H
#define REID_RESIZE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How many words of work memory a resize needs; 0 for a size that isn't between 1 and 8191. */
uint32_t reid_resize_words(int height, int width, int new_height, int new_width);

/* from: rows of RGB pixels, the first bytes of two rows `stride` apart; to: new_height x new_width x 3 bytes, packed.
 * A crop is resized in place in its frame: point to its first pixel, stride is the frame's.
 * 0, or -1 where `words` is too few, or a size isn't between 1 and 8191. */
int reid_resize(const uint8_t *from, int height, int width, int32_t stride, uint8_t *to, int new_height, int new_width,
                uint32_t *work, uint32_t words);

#ifdef __cplusplus
}
#endif

#endif
