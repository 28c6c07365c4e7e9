/* Reads images from images.bin, writes their embeddings to embeddings.bin. */
#include "semihosting.h"
#include NETWORK_H

static uint8_t image[NETWORK(IMAGE_BYTES)] __attribute__((section(".host"), aligned(4)));
static float embedding[NETWORK(EMBEDDING_SIZE)] __attribute__((section(".host")));

int main(void) {
  const intptr_t images = open_file("images.bin", READ_BINARY);
  const intptr_t embeddings = open_file("embeddings.bin", WRITE_BINARY);
  if (images < 0 || embeddings < 0) return 4;
  if (network(init)()) return 3;
  while (read_file(images, image, NETWORK(IMAGE_BYTES)) == 0) {
    network(run)(image, embedding);
    measured();
    if (write_file(embeddings, embedding, sizeof embedding)) return 5;
  }
  print_stack();
  return 0;
}
