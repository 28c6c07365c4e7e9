/* SPDX-License-Identifier: Apache-2.0 */
/* Distances of two embeddings. */
#ifndef REID_DISTANCE_H
#define REID_DISTANCE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of floats; both call sqrtf. A vector of zeros has cosine distance 1 from everything. */
float reid_euclidean_distance(const float *a, const float *b, int size);
float reid_cosine_distance(const float *a, const float *b, int size);

/* The cosine distance of codes, up to 32768 each, in units of 1/32768: from 0 to 65536. In integers alone, so that every
 * machine gives what `reidlab.deploy.device_gallery` gives in Python. */
int32_t reid_code_distance(const int8_t *a, const int8_t *b, int size, int zero);

/* A cosine distance, such as a threshold, in these units. */
#define REID_UNITS(distance) ((int32_t)((distance) * 32768.0f))

/* --- What these and reid_gallery.c share --- */

/* 65536 times the length of a vector, rounded down, from the sum of its squares. */
uint32_t reid_length(uint32_t squares);

/* 1 - dot / (a * b) in units of 1/32768, for such lengths a and b. */
int32_t reid_units(int32_t dot, uint32_t a, uint32_t b);

#ifdef __cplusplus
}
#endif

#endif
