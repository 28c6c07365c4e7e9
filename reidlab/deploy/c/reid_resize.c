/* SPDX-License-Identifier: Apache-2.0 */
#include "reid_resize.h"

/* Fused multiply-adds would round the weights otherwise than Pillow does. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#define BITS 22 /* of a weight: a byte times a weight, summed, fits into 32 bits */
#define LARGEST 8191

/* For each place along one axis: where its window begins, how long it is, and the window's weights. */
typedef struct {
  int32_t *at, *count, *weight;
  int taps; /* room for weights of a place */
} axis;

static double triangle(double x) {
  if (x < 0.0) x = -x;
  return x < 1.0 ? 1.0 - x : 0.0;
}

static double weight_at(int place, double center, double step) { return triangle((place - center + 0.5) * step); }

static void fill(axis *table, int size, int new_size) {
  double scale = (double)size / new_size, reach = scale < 1.0 ? 1.0 : scale, step = 1.0 / reach;
  for (int place = 0; place < new_size; place++) {
    int32_t *weight = table->weight + (int32_t)place * table->taps;
    double center = (place + 0.5) * scale, sum = 0.0;
    double low = center - reach + 0.5, high = center + reach + 0.5;
    int first = low < 0.0 ? 0 : (int)low, end = high > size ? size : (int)high;
    for (int i = first; i < end; i++) sum += weight_at(i, center, step);
    for (int i = first; i < end; i++) {
      double share = weight_at(i, center, step);
      if (sum != 0.0) share /= sum;
      weight[i - first] = (int32_t)(0.5 + share * (1 << BITS));
    }
    table->at[place] = first;
    table->count[place] = end - first;
  }
}

static uint32_t *place_axis(axis *table, uint32_t *work, int size, int new_size) {
  table->taps = REID_RESIZE_TAPS(size, new_size);
  table->at = (int32_t *)work;
  table->count = table->at + new_size;
  table->weight = table->count + new_size;
  fill(table, size, new_size);
  return work + new_size * (2 + table->taps);
}

static uint8_t byte(int32_t sum) {
  sum >>= BITS;
  return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static void across(const uint8_t *from, uint8_t *to, const axis *columns, int new_width) {
  for (int x = 0; x < new_width; x++) {
    const int32_t *weight = columns->weight + (int32_t)x * columns->taps;
    const uint8_t *pixel = from + 3 * columns->at[x];
    int32_t r = 1 << (BITS - 1), g = r, b = r;
    for (int i = 0; i < columns->count[x]; i++, pixel += 3) {
      r += pixel[0] * weight[i];
      g += pixel[1] * weight[i];
      b += pixel[2] * weight[i];
    }
    *to++ = byte(r);
    *to++ = byte(g);
    *to++ = byte(b);
  }
}

static int is_size(int n) { return 1 <= n && n <= LARGEST; }

uint32_t reid_resize_words(int height, int width, int new_height, int new_width) {
  if (!is_size(height) || !is_size(width) || !is_size(new_height) || !is_size(new_width)) return 0;
  return (uint32_t)REID_RESIZE_WORDS(height, width, new_height, new_width);
}

int reid_resize_rows(reid_row *row_of, const void *source, int height, int width, uint8_t *to, int new_height,
                     int new_width, uint32_t *work, uint32_t words) {
  uint32_t needed = reid_resize_words(height, width, new_height, new_width);
  if (needed == 0 || words < needed) return -1;
  axis columns, rows;
  uint8_t *ring = (uint8_t *)place_axis(&rows, place_axis(&columns, work, width, new_width), height, new_height);
  int32_t row_bytes = 3 * new_width;
  int done = 0; /* rows resized across so far; the last `rows.taps` of them are in the ring */
  for (int y = 0; y < new_height; y++) {
    const int32_t *weight = rows.weight + (int32_t)y * rows.taps;
    int first = rows.at[y], end = first + rows.count[y];
    if (done < first) done = first;
    for (; done < end; done++) {
      uint8_t *row = ring + (int32_t)(done % rows.taps) * row_bytes;
      const uint8_t *given = row_of(source, done);
      if (width == new_width) { /* as it is */
        for (int32_t i = 0; i < row_bytes; i++) row[i] = given[i];
      } else {
        across(given, row, &columns, new_width);
      }
    }
    for (int32_t i = 0; i < row_bytes; i++) {
      int32_t sum = 1 << (BITS - 1);
      for (int j = first; j < end; j++) sum += ring[(int32_t)(j % rows.taps) * row_bytes + i] * weight[j - first];
      *to++ = height == new_height ? ring[(int32_t)(first % rows.taps) * row_bytes + i] : byte(sum);
    }
  }
  return 0;
}

typedef struct {
  const uint8_t *pixels;
  int32_t stride;
} rows_of_pixels;

static const uint8_t *row_of_pixels(const void *source, int y) {
  const rows_of_pixels *rows = source;
  return rows->pixels + (int64_t)y * rows->stride;
}

int reid_resize(const uint8_t *from, int height, int width, int32_t stride, uint8_t *to, int new_height, int new_width,
                uint32_t *work, uint32_t words) {
  const rows_of_pixels source = {from, stride};
  return reid_resize_rows(row_of_pixels, &source, height, width, to, new_height, new_width, work, words);
}
