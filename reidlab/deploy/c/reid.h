/* SPDX-License-Identifier: Apache-2.0 */
/* $name: $height x $width image in, $size numbers out. Generated; the integration is in README.md. */
#ifndef REID_H
#define REID_H

#include <stdint.h>

#include "reid_distance.h"
#include "reid_version.h"

#define REID_IMAGE_HEIGHT $height
#define REID_IMAGE_WIDTH $width
#define REID_IMAGE_CHANNELS $channels
#define REID_IMAGE_BYTES (REID_IMAGE_HEIGHT * REID_IMAGE_WIDTH * REID_IMAGE_CHANNELS)
#define REID_INPUT_SCALE $input_scale   /* a byte of the image stands for REID_INPUT_SCALE * (byte - REID_INPUT_ZERO) */
#define REID_INPUT_ZERO $input_zero
#define REID_EMBEDDING_SIZE $size
#define REID_EMBEDDING_SCALE $scale     /* a code stands for REID_EMBEDDING_SCALE * (code - REID_EMBEDDING_ZERO) */
#define REID_EMBEDDING_ZERO $zero
#define REID_ARENA_BYTES $arena_bytes      /* RAM, aligned to 8 bytes */
#define REID_WEIGHT_BYTES $weight_bytes     /* flash: int8 weights and int32 biases */
#define REID_TABLE_BYTES $table_bytes      /* flash: multipliers and shifts of each channel */
<!-- embeds
$thresholds
-->
<!-- classifies
#define REID_CLASS_NAMES {$class_names}   /* in the order of the output */
-->

/* 1: the arena is static; 0: the caller gives it, so that it may be shared with what else needs RAM at other times. */
#ifndef REID_STATIC_ARENA
#define REID_STATIC_ARENA $static_arena
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* 0 if the constants in flash are those that were exported. */
int reid_init(void);

/* RGB pixels, row by row, 3 bytes each -> the output. `arena`: REID_ARENA_BYTES, aligned to 8 bytes; their content
 * before and after means nothing. Reentrant, with an arena for each call at a time. */
void reid_run_in(void *arena, const uint8_t image[REID_IMAGE_BYTES], float embedding[REID_EMBEDDING_SIZE]);

/* The same, without the conversion to float. */
void reid_run_codes_in(void *arena, const uint8_t image[REID_IMAGE_BYTES], int8_t codes[REID_EMBEDDING_SIZE]);

#if REID_STATIC_ARENA
/* The same in the static arena: one call at a time. */
void reid_run(const uint8_t image[REID_IMAGE_BYTES], float embedding[REID_EMBEDDING_SIZE]);
void reid_run_codes(const uint8_t image[REID_IMAGE_BYTES], int8_t codes[REID_EMBEDDING_SIZE]);
#endif

/* Of reid_self_test.c: how many codes of the image in there differ from those of the TFLite reference kernels. 0: none;
 * the image, REID_IMAGE_BYTES, is in flash only where this is called. */
int reid_self_test(void *arena);
<!-- embeds

/* The $distance distance of two embeddings. */
static inline float reid_distance(const float a[REID_EMBEDDING_SIZE], const float b[REID_EMBEDDING_SIZE]) {
  return reid_${distance}_distance(a, b, REID_EMBEDDING_SIZE);
}
-->

#ifdef __cplusplus
}
#endif

#endif
