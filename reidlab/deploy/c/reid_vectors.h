/* SPDX-License-Identifier: Apache-2.0 */
/* Primitives of the kernels on vectors of 16 bytes: Helium, the vector extension of Cortex-M55 and M85. */
#ifndef REID_VECTORS_H
#define REID_VECTORS_H

#include <arm_mve.h>

/* --- Lanes: what kernels that go element by element compute with; here 4 numbers ----------------------------------- */

enum { LANES = 4 };
typedef int32x4_t lanes;

/* The first `left` numbers from an address, and every step-th. */
static inline lanes load(const int8_t *from, int left) {
  return left >= LANES ? vldrbq_s32(from) : vldrbq_z_s32(from, vctp32q((uint32_t)left));
}
static inline uint32x4_t every(int step) {
  const uint32x4_t first = {0, 1, 2, 3};
  return vmulq_n_u32(first, (uint32_t)step);
}
static inline lanes load_every(const int8_t *from, int step, int left) {
  return vldrbq_gather_offset_z_s32(from, every(step), vctp32q((uint32_t)left));
}
static inline lanes load_words(const int32_t *from, int left) { return vldrwq_z_s32(from, vctp32q((uint32_t)left)); }
static inline void store_words(int32_t *to, int left, lanes value) {
  vstrwq_p_s32(to, value, vctp32q((uint32_t)left));
}
static inline lanes same(int32_t value) { return vdupq_n_s32(value); }
static inline lanes greater(lanes a, lanes b) { return vmaxq_s32(a, b); }
static inline lanes lesser(lanes a, lanes b) { return vminq_s32(a, b); }
/* Each in its lowest byte, saturated. */
static inline lanes saturated(lanes value) {
  __asm__("vqmovnb.s32 %q0, %q0\n vqmovnb.s16 %q0, %q0" : "+w"(value));
  return value;
}
static inline void store(int8_t *to, int left, lanes value) {
  if (left >= LANES)
    vstrbq_s32(to, saturated(value));
  else
    vstrbq_p_s32(to, saturated(value), vctp32q((uint32_t)left));
}
/* sum / count, ties away from zero: (2 |sum| + count) / (2 count), exact for |sum| < 2^18 and count < 2^11. */
static inline lanes mean_of(lanes sum, int count) {
  const uint32x4_t twice = vreinterpretq_u32_s32(vabsq_s32(sum) * 2 + count - count % 2);
  const lanes mean = vreinterpretq_s32_u32(vmulhq_u32(twice, vdupq_n_u32(0x80000000u / (uint32_t)count + 1)));
  return vnegq_m_s32(mean, mean, vcmpltq_n_s32(sum, 0));
}

static inline lanes rescale(const scaling *s, lanes value) {
  if (s->right) {
    const lanes high = vqrdmulhq_n_s32(value, s->multiplier);
    return vshlq_r_s32(vaddq_n_s32(high + (high >> 31), s->add), -s->right);
  }
  return vaddq_n_s32(vqrdmulhq_n_s32(vshlq_r_s32(value, s->left), s->multiplier), s->add);
}
/* Each by its own multiplier and shift. */
static inline lanes rescale_each(const int32_t *multiplier, const int8_t *shift, int zero, int left, lanes value) {
  const lanes left_shift = vnegq_s32(load(shift, left)), right_shift = vminq_s32(left_shift, same(0));
  const lanes high = vqrdmulhq_s32(vshlq_s32(value, vmaxq_s32(left_shift, same(0))), load_words(multiplier, left));
  return vrshlq_s32(high + ((high & right_shift) >> 31), right_shift) + zero;
}

/* --- Bytes ---------------------------------------------------------------------------------------------------------- */

static inline void copy_bytes(int8_t *to, const int8_t *from, int count) {
  __asm__ volatile(
      "wlstp.8 lr, %2, 2f\n"
      "1: vldrb.8 q0, [%1], #16\n"
      "vstrb.8 q0, [%0], #16\n"
      "letp lr, 1b\n2:"
      : "+r"(to), "+r"(from) : "r"(count) : "q0", "lr", "memory");
}

static inline int8x16_t load16(const int8_t *from, int left) {
  return left >= 16 ? vldrbq_s8(from) : vldrbq_z_s8(from, vctp8q((uint32_t)left));
}

/* The sum of weight * (value - zero) */
static inline int32_t dot(const int8_t *weights, const int8_t *values, int count, int zero) {
  int32_t sum = 0, all = 0;
  for (int i = 0; i < count; i += 16) {
    const int8x16_t weight = load16(weights + i, count - i);
    sum = vmladavaq_s8(sum, weight, load16(values + i, count - i));
    all = vaddvaq_s8(all, weight);
  }
  return sum - zero * all;
}

/* --- Quads: sums of 4 pixels against one run of weights ------------------------------------------------------------ */

typedef int32x4_t quad;

static inline quad quad_of(int32_t a, int32_t b, int32_t d, int32_t e) {
  quad q;
  __asm__(
      "vmov %q0[2], %q0[0], %1, %3\n"
      "vmov %q0[3], %q0[1], %2, %4"
      : "=&w"(q) : "r"(a), "r"(b), "r"(d), "r"(e));
  return q;
}

/* Where values lie: many quads of pixels, so that a channel's tables are read once for all, if two fit on the stack; else
 * in the scratch space, which has 8 bytes for each of `count`: two quads without a vector that is partly filled, or one. */
enum { SPACE = 1280 };
#define QUAD_SPACE(scratch, count) \
  const int quad_bytes = ((count) + 15) / 16 * 64; \
  uint32_t space[SPACE / 4]; \
  int8_t *const quads = 2 * quad_bytes > SPACE ? (scratch) : (void *)space; \
  const int max_quads = 2 * quad_bytes > SPACE ? 2 - ((count) % 16 != 0) : SPACE / quad_bytes

/* One pixel's values beside those of 3 others, as [quads][vectors][4 pixels][16 bytes]. */
static inline void interleave(int8_t *quads, int pixel, const int8_t *values, int count, uint32_t flip, int zero) {
  (void)zero;
  quads += (pixel / 4) * ((count + 15) / 16 * 64) + 16 * (pixel % 4);
  const uint32x4_t flips = vdupq_n_u32(flip);
  __asm__ volatile(
      "wlstp.8 lr, %2, 2f\n"
      "1: vldrb.8 q0, [%1], #16\n"
      "veor q0, q0, %q3\n"
      "vstrb.8 q0, [%0], #64\n"
      "letp lr, 1b\n2:"
      : "+r"(quads), "+r"(values) : "r"(count), "w"(flips) : "q0", "lr", "memory");
}

/* What the sums of weight * value start from: bias - zero * (the sum of the weights). */
static inline int32_t base_of(const int8_t *weights, int count, int32_t bias, int zero) {
  int32_t sum = 0;
  __asm__(
      "wlstp.8 lr, %2, 2f\n"
      "1: vldrb.8 q0, [%1], #16\n"
      "vaddva.s8 %0, q0\n"
      "letp lr, 1b\n2:"
      : "+Te"(sum), "+r"(weights) : "r"(count) : "q0", "lr", "memory");
  return bias - zero * sum;
}

/* base + the sums of weight * value; on to the next values. */
static inline quad dot_quad(const int8_t *weight, const int8_t **values, int count, int32_t base) {
  int32_t a = base, b = base, d = base, e = base;
  const int8_t *value = *values;
  __asm__(
      "wlstp.8 lr, %[count], 2f\n"
      "1: vldrb.8 q0, [%[weight]], #16\n"
      "vldrb.8 q1, [%[value]], #16\n"
      "vmladava.s8 %[a], q0, q1\n"
      "vldrb.8 q1, [%[value]], #16\n"
      "vmladava.s8 %[b], q0, q1\n"
      "vldrb.8 q1, [%[value]], #16\n"
      "vmladava.s8 %[d], q0, q1\n"
      "vldrb.8 q1, [%[value]], #16\n"
      "vmladava.s8 %[e], q0, q1\n"
      "letp lr, 1b\n2:"
      : [a] "+Te"(a), [b] "+Te"(b), [d] "+Te"(d), [e] "+Te"(e), [weight] "+r"(weight), [value] "+r"(value)
      : [count] "r"(count)
      : "q0", "q1", "lr", "memory");
  *values = value;
  return quad_of(a, b, d, e);
}

/* Rescale and write the first `pixels` sums, `step` bytes apart. */
static inline void write_quad(int8_t *to, int step, int pixels, const scaling *s, quad sums) {
  const lanes codes = saturated(rescale(s, sums));
#ifdef __clang__
  vstrbq_scatter_offset_p_s32(to, every(step), codes, vctp32q((uint32_t)pixels));
#else /* the same; GCC would move the predicate to a core register and back */
  __asm__ volatile("vctp.32 %3\n vpst\n vstrbt.32 %q0, [%1, %q2]"
                   : : "w"(codes), "r"(to), "w"(every(step)), "r"(pixels) : "p0", "memory");
#endif
}

/* Write a channel of the first `pixels` pixels; on to the next channel's weights. */
static inline void write_channel(const reid_conv *p, int c, const int8_t **weights, const int8_t *quads, int count,
                                 int pixels, int8_t *to) {
  const int32_t base = base_of(*weights, count, p->bias ? p->bias[c] : 0, p->in_zero);
  const scaling s = scaling_of(p->multiplier[c], p->shift[c], p->out_zero);
  const int step = p->out_channels;
  for (int left = pixels; left > 0; left -= 4, to += 4 * step)
    write_quad(to, step, left, &s, dot_quad(*weights, &quads, count, base));
  *weights += count;
}

/* --- Depthwise convolution by 3x3 ----------------------------------------------------------------------------------- */

/* Columns of up to 16 channels are written as [column][channel][3 rows and a spare byte], borders included, so that one
 * load gathers 4 columns of a channel: all that a window needs, or two windows side by side. */
enum { COLUMN = 64 };

static inline void write_columns(const reid_depthwise *p, const int8_t *const *rows, int left, int columns, int first,
                                 int count, int8_t *to) {
  const int8_t *top = rows[0] + first, *middle = rows[1] + first, *bottom = rows[2] + first;
  int8x16x4_t column = {{vdupq_n_s8(0), vdupq_n_s8(0), vdupq_n_s8(0), vdupq_n_s8(0)}};
  for (int x = left; x < left + columns; ++x, to += COLUMN) {
    const int at = x * p->channels;
    if (x < 0 || x >= p->in_width)
      column.val[0] = column.val[1] = column.val[2] = vdupq_n_s8((int8_t)p->in_zero);
    else
      column.val[0] = load16(top + at, count), column.val[1] = load16(middle + at, count),
      column.val[2] = load16(bottom + at, count);
    vst4q_s8(to, column);
  }
}

static inline quad columns_quad(uint32x4_t from, int stride, int32_t bias, int8x16_t taps, int8x16_t later_taps) {
#define COLUMNS(number) vreinterpretq_s8_s32(vldrwq_gather_base_s32(from, (number) * COLUMN))
  const int8x16_t a = COLUMNS(0), b = COLUMNS(2);
  if (stride == 1)
    return quad_of(vmladavaq_s8(bias, a, taps), vmladavaq_s8(bias, a, later_taps), vmladavaq_s8(bias, b, taps),
                   vmladavaq_s8(bias, b, later_taps));
  return quad_of(vmladavaq_s8(bias, a, taps), vmladavaq_s8(bias, b, taps), vmladavaq_s8(bias, COLUMNS(4), taps),
                 vmladavaq_s8(bias, COLUMNS(6), taps));
#undef COLUMNS
}

static inline void depthwise3(const reid_depthwise *p, const int8_t *const *rows, int8_t *out, const int stride) {
  enum { MOST = SPACE / COLUMN };
  const uint8x16_t order = {0, 2, 5, 0, 1, 3, 7, 0, 4, 6, 8, 0, 0, 0, 0, 0}; /* of the taps: see reid_words.h */
  const uint8x16_t later = {0, 0, 0, 0, 0, 2, 5, 0, 1, 3, 7, 0, 4, 6, 8, 0};
  const int channels = p->channels, most = 4 * ((MOST - 4 + stride) / (4 * stride));
  uint32_t columns[SPACE / 4];
  const uint32x4_t start = vaddq_n_u32(every(COLUMN), (uint32_t)(uintptr_t)columns);

  for (int x = 0; x < p->out_width; x += most, out += most * channels) {
    const int pixels = p->out_width - x < most ? p->out_width - x : most;
    for (int first = 0; first < channels; first += 16) {
      const int count = channels - first < 16 ? channels - first : 16;
      write_columns(p, rows, x * stride - p->pad_left, (pixels - 1) * stride + 3, first, count, (int8_t *)columns);
      for (int c = first; c < first + count; ++c) {
        const int8_t *w = p->weights + 9 * c;
        const int8x16_t taps = vldrbq_gather_offset_z_s8(w, order, 0x0777);
        const int8x16_t later_taps = vldrbq_gather_offset_z_s8(w, later, 0x7770);
        const scaling s = scaling_of(p->multiplier[c], p->shift[c], p->out_zero);
        const int32_t bias = p->bias[c];
        uint32x4_t from = vaddq_n_u32(start, (uint32_t)(4 * (c - first)));
        int8_t *to = out + c;
        for (int left = pixels; left > 0; left -= 4, to += 4 * channels) {
          write_quad(to, channels, left, &s, columns_quad(from, stride, bias, taps, later_taps));
          from = vaddq_n_u32(from, (uint32_t)(4 * COLUMN * stride));
        }
      }
    }
  }
}

#endif
