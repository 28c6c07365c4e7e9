/* SPDX-License-Identifier: Apache-2.0 */
#include "reid_distance.h"

float sqrtf(float); /* of the C library; declared here, so that a freestanding compiler needs no header */

float reid_euclidean_distance(const float *a, const float *b, int size) {
  float sum = 0;
  for (int i = 0; i < size; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sqrtf(sum);
}

float reid_cosine_distance(const float *a, const float *b, int size) {
  float dot = 0, a_squares = 0, b_squares = 0;
  for (int i = 0; i < size; i++) {
    dot += a[i] * b[i];
    a_squares += a[i] * a[i];
    b_squares += b[i] * b[i];
  }
  const float lengths = sqrtf(a_squares) * sqrtf(b_squares);
  return lengths > 0 ? 1 - dot / lengths : 1;
}

int32_t reid_code_distance(const int8_t *a, const int8_t *b, int size, int zero) {
  int32_t dot = 0;
  uint32_t a_squares = 0, b_squares = 0;
  for (int i = 0; i < size; i++) {
    const int32_t x = a[i] - zero, y = b[i] - zero;
    dot += x * y;
    a_squares += (uint32_t)(x * x);
    b_squares += (uint32_t)(y * y);
  }
  return reid_units(dot, reid_length(a_squares), reid_length(b_squares));
}

uint32_t reid_length(uint32_t squares) {
  uint64_t rest = (uint64_t)squares << 32, root = 0;
  for (uint64_t bit = (uint64_t)1 << 62; bit; bit >>= 2) {
    const int fits = rest >= root + bit;
    if (fits) rest -= root + bit;
    root = (root >> 1) + (fits ? bit : 0);
  }
  return (uint32_t)root;
}

int32_t reid_units(int32_t dot, uint32_t a, uint32_t b) {
  const int64_t lengths = (int64_t)((uint64_t)a * b >> 16);
  return lengths ? (int32_t)(32768 - dot * ((int64_t)1 << 31) / lengths) : 32768;
}
