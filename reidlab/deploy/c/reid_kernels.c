/* SPDX-License-Identifier: Apache-2.0 */
#include "reid_kernels.h"

#include <stddef.h>

/* The only two functions of a C library; declared here, so that a freestanding compiler needs no header. */
void *memcpy(void *, const void *, size_t);
void *memset(void *, int, size_t);

#ifdef __GNUC__
#define copy4(to, from) __builtin_memcpy(to, from, 4) /* one load or store, even when freestanding */
#else
#define copy4(to, from) memcpy(to, from, 4)
#endif

static inline int32_t shift_left(int32_t value, int bits) { return (int32_t)((uint32_t)value << bits); }

static inline uint32_t load4(const void *bytes) {
  uint32_t word;
  copy4(&word, bytes);
  return word;
}

static inline int32_t saturate8(int32_t value) {
#ifdef __ARM_FEATURE_SAT
  __asm__("ssat %0, #8, %1" : "=r"(value) : "r"(value));
  return value;
#else
  return value < -128 ? -128 : value > 127 ? 127 : value;
#endif
}

/* A rescaling, prepared. The high half of a product is rounded, then shifted right with ties away from zero. */
typedef struct {
  int32_t multiplier, add;
  int left, right; /* one of them is 0 */
} scaling;

static inline scaling scaling_of(int32_t multiplier, int shift, int32_t zero) {
  scaling s = {multiplier, zero, 0, 0};
  if (shift > 0) {
    s.right = shift;
    s.add = shift_left(2 * zero + 1, shift - 1);
  } else {
    s.left = -shift;
  }
  return s;
}

/* The rows, with one of zero points in place of those outside of the image. */
static void fill_missing(const int8_t *const *rows, const int8_t **full, int count, int zero, int row_bytes,
                         int8_t *spare) {
  for (int y = 0; y < count; ++y) {
    full[y] = rows[y] ? rows[y] : spare;
    if (!rows[y]) memset(spare, zero, (size_t)row_bytes);
  }
}

/* Primitives of the kernels: on vectors where the core has them (Helium), else on words. */
#if defined(__ARM_FEATURE_MVE)
#include "reid_vectors.h"
#else
#include "reid_words.h"
#endif

/* --- Convolution: 4 pixels or a multiple at a time against one output channel after the other ----------------------- */

/* The window's values of one pixel, row after row, as one run of bytes; outside of the image they are the zero point. */
static void gather(const reid_conv *p, const int8_t *const *rows, int x, int8_t *patch) {
  int channels = p->channels, width = p->kernel_w * channels;
  int left = x * p->stride - p->pad_left, right = left + p->kernel_w - p->in_width;
  int skip = left < 0 ? -left * channels : 0, cut = right > 0 ? right * channels : 0, length = width - skip - cut;
  int zero = p->in_zero ^ (int)(p->flip & 0xFF);
  for (int y = 0; y < p->kernel_h; ++y, patch += width) {
    if (!rows[y] || skip || cut) memset(patch, zero, (size_t)width);
    if (rows[y] && length > 0) copy_bytes(patch + skip, rows[y] + left * channels + skip, length);
  }
}

void reid_conv_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_conv *p = params;
  const int channels = p->channels, out_channels = p->out_channels, out_width = p->out_width, zero = p->in_zero;
  const int window = p->kernel_h * p->kernel_w, count = (window * channels + 7) / 8 * 8;
  const int direct = window == 1 && p->stride == 1 && channels % 8 == 0; /* a 1x1 window is never padded */
  QUAD_SPACE(scratch, count);
  int8_t *const patch = (int8_t *)scratch + 8 * count;

  for (int x = 0; x < out_width; x += 4 * max_quads, out += 4 * max_quads * out_channels) {
    const int pixels = out_width - x < 4 * max_quads ? out_width - x : 4 * max_quads;
    for (int i = 0; i < pixels; ++i) {
      const int8_t *values = patch;
      if (direct)
        values = rows[0] + (x + i) * channels;
      else
        gather(p, rows, x + i, patch);
      interleave(quads, i, values, count, p->flip, zero);
    }
    const int8_t *weights = p->weights;
    for (int c = 0; c < out_channels; ++c) write_channel(p, c, &weights, quads, count, pixels, out + c);
  }
}

/* --- Depthwise convolution ---------------------------------------------------------------------------------------- */

void reid_depthwise3_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_depthwise *p = params;
  const int8_t *full[3];
  fill_missing(rows, full, 3, p->in_zero, p->in_width * p->channels, scratch);
  if (p->stride == 1)
    depthwise3(p, full, out, 1);
  else
    depthwise3(p, full, out, 2);
}

void reid_depthwise_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_depthwise *p = params;
  const int8_t *full[REID_MAX_WINDOW];
  const int size = p->kernel_h * p->kernel_w;
  fill_missing(rows, full, p->kernel_h, p->in_zero, p->in_width * p->channels, scratch);
  for (int x = 0; x < p->out_width; ++x, out += p->channels) {
    for (int c = 0; c < p->channels; c += LANES) {
      const int left = p->channels - c;
      const int8_t *w = p->weights + size * c;
      lanes sum = load_words(p->bias + c, left);
      for (int ky = 0; ky < p->kernel_h; ++ky) {
        int at = x * p->stride - p->pad_left;
        for (int kx = 0; kx < p->kernel_w; ++kx, ++w, ++at) {
          lanes weight = load_every(w, size, left);
          if (at >= 0 && at < p->in_width)
            sum += weight * load(full[ky] + at * p->channels + c, left);
          else
            sum += weight * p->in_zero;
        }
      }
      store(out + c, left, rescale_each(p->multiplier + c, p->shift + c, p->out_zero, left, sum));
    }
  }
}

/* --- Fully connected: the one kernel whose reference rounds once instead of twice --------------------------------- */

void reid_dense_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_dense *p = params;
  const int8_t *w = p->weights;
  (void)scratch;
  for (int o = 0; o < p->outputs; ++o, w += p->inputs) {
    int32_t sum = (p->bias ? p->bias[o] : 0) + dot(w, rows[0], p->inputs, p->in_zero);
    const int total = 31 + p->shift[o * p->scales];
    int64_t scaled = ((int64_t)sum * p->multiplier[o * p->scales] + ((int64_t)1 << (total - 1))) >> total;
    scaled += p->out_zero;
    out[o] = (int8_t)(scaled < -128 ? -128 : scaled > 127 ? 127 : scaled);
  }
}

/* --- Element by element ------------------------------------------------------------------------------------------- */

/* Plus or minus `a`, which has the larger scale and therefore exactly 1/2 as its multiplier, plus or minus `b`. */
static inline void sum_of(const reid_sum *p, const int8_t *a, int a_sign, const int8_t *b, int b_sign, int left, int8_t *out) {
  const int32_t zero_a = p->zero[0], zero_b = p->zero[1];
  const scaling of_b = scaling_of(p->multiplier, p->shift, 0), of_sum = scaling_of(p->out_multiplier, p->out_shift, p->zero[2]);
  for (; left > 0; left -= LANES, a += LANES, b += LANES, out += LANES) {
    lanes sum = (load(a, left) - zero_a) * (a_sign * (1 << 19)) + rescale(&of_b, (load(b, left) - zero_b) * (1 << 20)) * b_sign;
    store(out, left, rescale(&of_sum, sum));
  }
}

/* The input with the larger scale comes first. */
void reid_sum_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_sum *p = params;
  (void)scratch;
  sum_of(p, rows[0], 1, rows[1], 1, p->count, out);
}

void reid_signed_sum_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_signed_sum *p = params;
  const int8_t *x = rows[0], *y = p->constant ? p->constant : rows[1];
  const int period = p->period;
  (void)scratch;
  for (int left = p->sum.count; left > 0; left -= period, x += period, out += period)
    sum_of(&p->sum, p->larger ? y : x, p->sign[0], p->larger ? x : y, p->sign[1], period, out);
}

void reid_product_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_product *p = params;
  const scaling s = scaling_of(p->multiplier, p->shift, p->zero[2]);
  const int32_t zero_a = p->zero[0], zero_b = p->zero[1];
  const int period = p->period;
  const int8_t *a = rows[0], *const factor = p->constant ? p->constant : rows[1];
  (void)scratch;
  for (int i = p->count; i > 0; i -= period) {
    const int8_t *x = a, *y = factor;
    int8_t *to = out;
    for (int left = period; left > 0; left -= LANES, x += LANES, y += LANES, to += LANES)
      store(to, left, rescale(&s, (load(x, left) - zero_a) * (load(y, left) - zero_b)));
    a += period, out += period;
  }
}

/* Of codes of one scale. */
void reid_extreme_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_extreme *p = params;
  const int period = p->period, is_least = p->is_least;
  const int8_t *from = rows[0], *const other = p->constant ? p->constant : rows[1];
  (void)scratch;
  for (int i = p->count; i > 0; i -= period, from += period, out += period) {
    for (int c = 0; c < period; c += LANES) {
      const int left = period - c;
      const lanes a = load(from + c, left), b = load(other + c, left);
      store(out + c, left, is_least ? lesser(a, b) : greater(a, b));
    }
  }
}

void reid_prelu_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_prelu *p = params;
  const scaling above = scaling_of(p->multiplier[0], p->shift[0], p->zero[2]);
  const scaling below = scaling_of(p->multiplier[1], p->shift[1], 0);
  const int period = p->period;
  const int8_t *from = rows[0];
  (void)scratch;
  for (int i = p->count; i > 0; i -= period, from += period, out += period) {
    for (int c = 0; c < period; c += LANES) {
      const int left = period - c;
      const lanes x = load(from + c, left) - p->zero[0], slope = load(p->slopes + c, left) - p->zero[1];
      store(out + c, left, rescale(&above, greater(x, same(0))) + rescale(&below, lesser(x, same(0)) * slope));
    }
  }
}

void reid_scale_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_scale *p = params;
  const scaling s = scaling_of(p->multiplier, p->shift, p->out_zero);
  const int8_t *from = rows[0];
  (void)scratch;
  for (int left = p->count; left > 0; left -= LANES, from += LANES, out += LANES)
    store(out, left, rescale(&s, load(from, left) - p->in_zero));
}

void reid_range_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_range *p = params;
  const lanes low = same(p->low), high = same(p->high);
  const int8_t *from = rows[0];
  (void)scratch;
  for (int left = p->count; left > 0; left -= LANES, from += LANES, out += LANES)
    store(out, left, lesser(greater(load(from, left), low), high));
}

/* Pixels as int8 codes, for the kernels that don't read uint8 by themselves. */
void reid_pixels_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_pixels *p = params;
  int i = 0;
  (void)scratch;
  for (; i + 4 <= p->count; i += 4) {
    uint32_t word = load4(rows[0] + i) ^ 0x80808080u;
    copy4(out + i, &word);
  }
  for (; i < p->count; ++i) out[i] = (int8_t)(rows[0][i] ^ -128);
}

void reid_border_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_border *p = params;
  const int8_t *from = rows[0];
  const int whole = p->left_bytes + p->row_bytes + p->right_bytes;
  (void)scratch;
  memset(out, p->value, (size_t)(whole * p->count));
  if (!from) return;
  for (int i = 0; i < p->count; ++i, from += p->row_bytes, out += whole) memcpy(out + p->left_bytes, from, p->row_bytes);
}

void reid_join_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_join *p = params;
  const int8_t *a = rows[0], *b = rows[1];
  (void)scratch;
  for (int i = 0; i < p->count; ++i, a += p->bytes[0], b += p->bytes[1]) {
    memcpy(out, a, p->bytes[0]);
    out += p->bytes[0];
    memcpy(out, b, p->bytes[1]);
    out += p->bytes[1];
  }
}

void reid_slice_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_slice *p = params;
  const int8_t *from = rows[0] + p->first;
  (void)scratch;
  for (int i = 0; i < p->count; ++i, from += p->step, out += p->take) memcpy(out, from, p->take);
}

void reid_repeat_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_repeat *p = params;
  (void)scratch;
  for (int row = 0; row < p->rows; ++row)
    for (int i = 0; i < p->count; ++i)
      for (int again = 0; again < p->times; ++again, out += p->bytes) memcpy(out, rows[0] + i * p->bytes, p->bytes);
}

void reid_transpose_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_transpose *p = params;
  const int8_t *pixel = rows[0];
  (void)scratch;
  for (int x = 0; x < p->width; ++x, pixel += p->steps[0])
    for (int c = 0; c < p->channels; ++c) *out++ = (int8_t)(pixel[c * p->steps[1]] ^ p->flip);
}

/* Any function of one code. */
void reid_table_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_table *p = params;
  (void)scratch;
  for (int i = 0; i < p->count; ++i) out[i] = p->codes[rows[0][i] + 128];
}

void reid_float_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_float *p = params;
  (void)scratch;
  for (int i = 0; i < p->count; ++i) {
    float value = p->scale * (float)(rows[0][i] - p->zero);
    copy4(out + 4 * i, &value);
  }
}

/* --- Pooling ------------------------------------------------------------------------------------------------------ */

void reid_average_all(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_average *p = params;
  const scaling s = scaling_of(p->multiplier, p->shift, p->out_zero);
  (void)scratch;
  for (int c = 0; c < p->channels; c += LANES) {
    const int8_t *value = rows[0] + c;
    const int left = p->channels - c;
    lanes sum = same(-p->pixels * p->in_zero);
    for (const int8_t *const end = value + p->pixels * p->channels; value != end; value += p->channels)
      sum += load(value, left);
    store(out + c, left, rescale(&s, sum));
  }
}

/* Adds a row's pixels to totals of channels, which begin where no row is above. */
void reid_totals_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_totals *p = params;
  int32_t *sums = (int32_t *)(void *)out;
  (void)scratch;
  for (int c = 0; c < p->channels; c += LANES) {
    const int8_t *value = rows[1] + c;
    const int left = p->channels - c;
    lanes sum = rows[0] ? load_words(sums + c, left) : same(0);
    for (const int8_t *const end = value + p->pixels * p->channels; value != end; value += p->channels)
      sum += load(value, left);
    store_words(sums + c, left, sum);
  }
}

void reid_average_totals_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_average *p = params;
  const scaling s = scaling_of(p->multiplier, p->shift, p->out_zero);
  const int32_t *sums = (const int32_t *)(const void *)rows[0];
  (void)scratch;
  for (int c = 0; c < p->channels; c += LANES) {
    const int left = p->channels - c;
    store(out + c, left, rescale(&s, load_words(sums + c, left) + same(-p->pixels * p->in_zero)));
  }
}

/* The same scale in and out, any number of pixels. */
void reid_average_pool_all(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_average *p = params;
  (void)scratch;
  for (int c = 0; c < p->channels; ++c) {
    int32_t sum = 0;
    for (int i = 0; i < p->pixels; ++i) sum += rows[0][i * p->channels + c];
    out[c] = (int8_t)((sum > 0 ? sum + p->pixels / 2 : sum - p->pixels / 2) / p->pixels);
  }
}

/* The pixels of a window that lie inside the row: [first, last). */
static inline void inside(const reid_window *p, int x, int *first, int *last) {
  int left = x * p->stride - p->pad_left, right = left + p->kernel_w;
  *first = left < 0 ? 0 : left;
  *last = right > p->in_width ? p->in_width : right;
}

void reid_max_pool_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_window *p = params;
  (void)scratch;
  for (int x = 0; x < p->out_width; ++x) {
    int first, last;
    inside(p, x, &first, &last);
    for (int c = 0; c < p->channels; c += LANES) {
      const int left = p->channels - c;
      lanes best = same(-128);
      for (int y = 0; y < p->kernel_h; ++y) {
        if (!rows[y]) continue;
        for (int at = first; at < last; ++at) best = greater(best, load(rows[y] + at * p->channels + c, left));
      }
      store(out + c, left, best);
    }
    out += p->channels;
  }
}

void reid_average_pool_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_window *p = params;
  (void)scratch;
  for (int x = 0; x < p->out_width; ++x) {
    int first, last;
    inside(p, x, &first, &last);
    for (int c = 0; c < p->channels; c += LANES) {
      const int left = p->channels - c;
      lanes sum = same(0);
      int count = 0;
      for (int y = 0; y < p->kernel_h; ++y) {
        if (!rows[y]) continue;
        for (int at = first; at < last; ++at, ++count) sum += load(rows[y] + at * p->channels + c, left);
      }
      store(out + c, left, mean_of(sum, count));
    }
    out += p->channels;
  }
}

/* --- Logistic and softmax in fixed point; qN.M has N integer and M fraction bits ----------------------------------- */

static int32_t clamp32(int64_t value) {
  return value < INT32_MIN ? INT32_MIN : value > INT32_MAX ? INT32_MAX : (int32_t)value;
}

/* a * b / 2^31, rounded */
static int32_t multiply(int32_t a, int32_t b) { return clamp32(((int64_t)a * b + 0x40000000) >> 31); }

/* value / 2^bits, ties away from zero */
static int32_t divide(int32_t value, int bits) {
  return bits ? (int32_t)(((int64_t)value + (1LL << (bits - 1)) - (value < 0)) >> bits) : value;
}

/* A code above its zero point in the fixed point of a curve. */
static int32_t to_fixed(const reid_curve *p, int32_t x) {
  return p->shift > 0 ? divide(multiply(x, p->multiplier), p->shift) : multiply(shift_left(x, -p->shift), p->multiplier);
}

/* exp(x) as q0.31 for x <= 0 with the given fraction bits: a Taylor series on [-1/4, 0), times exp(-2^n) for the rest. */
static int32_t exp_of_negative(int32_t x, int fraction_bits) {
  static const int32_t factors[] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
  const int32_t quarter = 1 << (fraction_bits - 2), third = 715827883, exp_of_minus_eighth = 1895147668;
  if (x == 0) return INT32_MAX;
  int32_t near = (x & (quarter - 1)) - quarter, rest = near - x;
  int32_t t = shift_left(near, 31 - fraction_bits) + (1 << 28);
  int32_t t2 = multiply(t, t), t3 = multiply(t2, t), t4 = multiply(t2, t2);
  int32_t series = divide(multiply(divide(t4, 2) + t3, third) + t2, 1);
  int32_t result = clamp32((int64_t)exp_of_minus_eighth + multiply(exp_of_minus_eighth, t + series));
  for (int n = 0; n < 7 && fraction_bits - 2 + n < 31; ++n)
    if (rest & (1 << (fraction_bits - 2 + n))) result = multiply(result, factors[n]);
  return result;
}

/* 1 / (1 + x) as q0.31 for x in [0, 1) as q0.31: three Newton steps from 48/17 - 32/17 d, in q2.29. */
static int32_t reciprocal_of_one_plus(int32_t x) {
  int32_t half = (int32_t)(((int64_t)x + INT32_MAX + 1) / 2), y = 1515870810 + multiply(half, -1010580540);
  for (int n = 0; n < 3; ++n) {
    int32_t error = (1 << 29) - multiply(half, y);
    y += clamp32((int64_t)multiply(y, error) * 4);
  }
  return clamp32((int64_t)y * 2);
}

void reid_logistic_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_curve *p = params;
  (void)scratch;
  for (int i = 0; i < p->count; ++i) {
    int32_t x = rows[0][i] - p->in_zero, magnitude = x < 0 ? -x : x, result = INT32_MAX;
    if (magnitude < p->limit) {
      x = to_fixed(p, x); /* q4.27 */
      result = x ? reciprocal_of_one_plus(exp_of_negative(x < 0 ? x : -x, 27)) : 1 << 30;
    }
    if (x < 0) result = INT32_MAX - result;
    out[i] = (int8_t)saturate8(divide(result, 23) - 128);
  }
}

static void softmax(const reid_curve *p, const int8_t *values, int8_t *out) {
  int32_t top = -128, total = 0;
  for (int i = 0; i < p->count; ++i) top = values[i] > top ? values[i] : top;
  for (int i = 0; i < p->count; ++i)
    if (top - values[i] <= p->limit) total += divide(exp_of_negative(to_fixed(p, values[i] - top), 26), 12);
  int headroom = 0;
  while (!((uint32_t)total << headroom & 0x80000000u)) ++headroom;
  int32_t scale = reciprocal_of_one_plus((int32_t)(((uint32_t)total << headroom) - 0x80000000u));
  for (int i = 0; i < p->count; ++i) {
    int32_t result = -128;
    if (top - values[i] <= p->limit) {
      int32_t share = multiply(scale, exp_of_negative(to_fixed(p, values[i] - top), 26));
      result = saturate8(divide(share, 12 - headroom + 23) - 128);
    }
    out[i] = (int8_t)result;
  }
}

void reid_softmax_row(const void *params, const int8_t *const *rows, int8_t *out, void *scratch) {
  const reid_curve *p = params;
  (void)scratch;
  for (int x = 0; x < p->pixels; ++x) softmax(p, rows[0] + x * p->count, out + x * p->count);
}

/* --- Executor ----------------------------------------------------------------------------------------------------- */

typedef struct {
  const reid_node *nodes;
  int8_t *arena;
  void *scratch;
  const int8_t *image;
  int8_t *out;
  uint16_t made[REID_MAX_NODES]; /* rows that each node has made so far */
  const int8_t *rows[REID_MAX_WINDOW + 1]; /* of the kernel that is called next */
} reid_stream;

static int8_t *row_of(const reid_stream *s, reid_rows place, int row) {
  int8_t *base = place.offset == REID_OUTPUT ? s->out : s->arena + place.offset;
  return base + row % place.rows * place.row_bytes;
}

/* Make the next row of a node, after the rows that it needs. */
static void make_row(reid_stream *s, int index) {
  const reid_node *node = s->nodes + index;
  const int row = s->made[index]++;
  int count = node->window ? node->window : 1, first = row * node->stride - node->pad, last = first + count - 1;
  if (last >= node->height || !node->window) last = node->height - 1;
  if (node->source[0] >= 0)
    while (s->made[node->source[0]] <= last) make_row(s, node->source[0]);
  if (node->source[1] >= 0)
    while (s->made[node->source[1]] <= row) make_row(s, node->source[1]);
  for (int i = 0; i < count; ++i) {
    const int y = first + i;
    s->rows[i] = y < 0 || y > last                  ? NULL
                 : node->in[0].offset == REID_IMAGE ? s->image + y * node->in[0].row_bytes
                                                    : row_of(s, node->in[0], y);
  }
  if (node->in[1].rows) s->rows[count] = row_of(s, node->in[1], row);
  node->kernel(node->params, s->rows, row_of(s, node->out, row), s->scratch);
}

void reid_execute(const reid_stage *stages, int count, int8_t *arena, const uint8_t *image, float *out) {
  reid_stream s = {0, arena, 0, (const int8_t *)image, (int8_t *)out, {0}, {0}};
  for (; count; --count, ++stages) {
    s.nodes = stages->nodes;
    s.scratch = arena + stages->scratch;
    memset(s.made, 0, sizeof s.made);
    for (int row = 0; row < stages->rows; ++row) make_row(&s, stages->count - 1);
  }
}

uint32_t reid_checksum(const void *bytes, uint32_t count, uint32_t start) {
  uint32_t low = start & 0xFFFF, high = start >> 16;
  for (const uint8_t *byte = bytes; count; --count) {
    low = (low + *byte++) % 65521;
    high = (high + low) % 65521;
  }
  return high << 16 | low;
}
