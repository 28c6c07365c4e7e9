/* SPDX-License-Identifier: Apache-2.0 */
/* An image and the codes that the TFLite reference kernels compute from it. Generated. */
#include "reid.h"

static const uint8_t image[REID_IMAGE_BYTES] = {
$image
};

static const int8_t expected[REID_EMBEDDING_SIZE] = {
$expected
};

int reid_self_test(void *arena) {
  int8_t codes[REID_EMBEDDING_SIZE];
  int differing = 0;
  reid_run_codes_in(arena, image, codes);
  for (int i = 0; i < REID_EMBEDDING_SIZE; i++) differing += codes[i] != expected[i];
  return differing;
}
