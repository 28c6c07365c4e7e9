/* $name: constants and stages. Generated. */
#include "reid.h"
#include "reid_kernels.h"

/* Define it before compiling to place the arena, e.g. __attribute__((section(".dtcm"))). */
#ifndef REID_ARENA_ATTRIBUTE
#define REID_ARENA_ATTRIBUTE
#endif

static union {
  uint64_t alignment;
  int8_t bytes[REID_ARENA_BYTES];
} arena REID_ARENA_ATTRIBUTE;

$constants

$parameters

$stages

int reid_init(void) {
  uint32_t sum = reid_checksum(weights.at, sizeof weights.at, 1);
  sum = reid_checksum(words.at, sizeof words.at, sum);
  return reid_checksum(shifts.at, sizeof shifts.at, sum) != ${checksum}u;
}

void reid_run(const uint8_t image[REID_IMAGE_BYTES], float embedding[REID_EMBEDDING_SIZE]) {
  reid_execute(stages, (int)(sizeof stages / sizeof *stages), arena.bytes, image, embedding);
}
