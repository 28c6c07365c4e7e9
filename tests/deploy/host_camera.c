/* From standard input: width, height, stride, format, is_limited, a box and a new size as int32, then the frame; the crop to
 * standard output, resized. */
#include <stdio.h>
#include <stdlib.h>

#include "reid_camera.h"

int main(void) {
  int32_t n[11];
  if (fread(n, 4, 11, stdin) != 11) return 1;
  uint8_t *pixels = malloc((size_t)(n[1] * n[2])), *to = malloc((size_t)(3 * n[9] * n[10]));
  if (fread(pixels, 1, (size_t)(n[1] * n[2]), stdin) != (size_t)(n[1] * n[2])) return 2;
  const reid_frame frame = {pixels, n[0], n[1], n[2], (reid_format)n[3], n[4]};
  const reid_box box = {n[5], n[6], n[7], n[8]}, inside = reid_clip(&frame, box);
  const uint32_t words = (uint32_t)REID_CROP_WORDS(inside.height, inside.width, n[9], n[10]);
  uint32_t *work = malloc(4u * (size_t)words);
  int status = 0;
  if (reid_crop(&frame, inside, to, n[9], n[10], work, words - 1) != -1) status = 3;
  if (!status && reid_crop(&frame, inside, to, n[9], n[10], work, words)) status = 4;
  if (!status) fwrite(to, 1, (size_t)(3 * n[9] * n[10]), stdout);
  free(pixels);
  free(to);
  free(work);
  return status;
}
