/* Images from standard input, embeddings to standard output. */
#include <stdio.h>

#include "reid.h"

static uint8_t image[REID_IMAGE_BYTES];
static float embedding[REID_EMBEDDING_SIZE];

int main(void) {
  if (reid_init()) return 3;
  while (fread(image, 1, sizeof image, stdin) == sizeof image) {
    reid_run(image, embedding);
    fwrite(embedding, 1, sizeof embedding, stdout);
  }
  return 0;
}
