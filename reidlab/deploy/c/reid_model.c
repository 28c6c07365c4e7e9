/* SPDX-License-Identifier: Apache-2.0 */
/* $name: constants and stages. Generated; the constants are the network's, and have its license. */
#include "reid.h"
#include "reid_kernels.h"

#if REID_KERNELS != ${kernels}u
#error "reid_kernels.c is another version's: export all networks of a firmware by one version of reidlab"
#endif

$constants

$parameters

$stages

enum { STAGES = sizeof stages / sizeof *stages - 1 }; /* and the last once more, without the conversion to float */

int reid_init(void) {
  uint32_t sum = reid_checksum(weights.at, sizeof weights.at, 1);
  sum = reid_checksum(words.at, sizeof words.at, sum);
  return reid_checksum(shifts.at, sizeof shifts.at, sum) != ${checksum}u;
}

void reid_run_in(void *arena, const uint8_t image[REID_IMAGE_BYTES], float embedding[REID_EMBEDDING_SIZE]) {
  reid_execute(stages, STAGES, arena, image, embedding);
}

void reid_run_codes_in(void *arena, const uint8_t image[REID_IMAGE_BYTES], int8_t codes[REID_EMBEDDING_SIZE]) {
  reid_execute(stages, STAGES - 1, arena, image, (float *)0);
  reid_execute(stages + STAGES, 1, arena, image, (float *)(void *)codes);
}

#if REID_STATIC_ARENA
/* A section of its own, below .bss so that it takes no place in the flash image: see README.md for other memories. */
#ifndef REID_ARENA_ATTRIBUTE
#ifdef __ELF__
#define REID_ARENA_ATTRIBUTE __attribute__((section(".bss.reid_arena")))
#else
#define REID_ARENA_ATTRIBUTE
#endif
#endif

static union {
  uint64_t alignment;
  int8_t bytes[REID_ARENA_BYTES];
} reid_arena REID_ARENA_ATTRIBUTE;

void reid_run(const uint8_t image[REID_IMAGE_BYTES], float embedding[REID_EMBEDDING_SIZE]) {
  reid_run_in(reid_arena.bytes, image, embedding);
}

void reid_run_codes(const uint8_t image[REID_IMAGE_BYTES], int8_t codes[REID_EMBEDDING_SIZE]) {
  reid_run_codes_in(reid_arena.bytes, image, codes);
}
#endif
