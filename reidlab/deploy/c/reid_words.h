/* SPDX-License-Identifier: Apache-2.0 */
/* Primitives of the kernels on words of 32 bits: Cortex-M DSP instructions, or the same in C. */
#ifndef REID_WORDS_H
#define REID_WORDS_H

/* Included by reid_kernels.c alone, after what it defines. */
#if defined(__ARM_FEATURE_SIMD32) && defined(__ARM_FEATURE_DSP)

/* Bytes 0 and 2 (even) or 1 and 3 (odd) as signed halves. */
static inline uint32_t even_bytes(uint32_t word) {
  uint32_t halves;
  __asm__("sxtb16 %0, %1" : "=r"(halves) : "r"(word));
  return halves;
}
static inline uint32_t odd_bytes(uint32_t word) {
  uint32_t halves;
  __asm__("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(word));
  return halves;
}
/* The same, plus the halves of `offset`. */
static inline uint32_t even_bytes_plus(uint32_t word, uint32_t offset) {
  uint32_t halves;
  __asm__("sxtab16 %0, %1, %2" : "=r"(halves) : "r"(offset), "r"(word));
  return halves;
}
static inline uint32_t odd_bytes_plus(uint32_t word, uint32_t offset) {
  uint32_t halves;
  __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(halves) : "r"(offset), "r"(word));
  return halves;
}
/* sum + a.low * b.low + a.high * b.high */
static inline int32_t dot2(uint32_t a, uint32_t b, int32_t sum) {
  int32_t total;
  __asm__("smlad %0, %1, %2, %3" : "=r"(total) : "r"(a), "r"(b), "r"(sum));
  return total;
}
/* sum + a.low * b.low, and sum + a.low * b.high */
static inline int32_t dot_low(int32_t a, uint32_t b, int32_t sum) {
  int32_t total;
  __asm__("smlabb %0, %1, %2, %3" : "=r"(total) : "r"(a), "r"(b), "r"(sum));
  return total;
}
static inline int32_t dot_high(int32_t a, uint32_t b, int32_t sum) {
  int32_t total;
  __asm__("smlabt %0, %1, %2, %3" : "=r"(total) : "r"(a), "r"(b), "r"(sum));
  return total;
}
/* (a * b + 2^31) >> 32 */
static inline int32_t high_product(int32_t a, int32_t b) {
  int32_t high;
  __asm__("smmulr %0, %1, %2" : "=r"(high) : "r"(a), "r"(b));
  return high;
}
static inline uint32_t pack_halves(int32_t low, int32_t high) {
  uint32_t halves;
  __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(halves) : "r"(low), "r"(high));
  return halves;
}

#else

static inline int32_t low_half(uint32_t word) { return (int16_t)(word & 0xFFFF); }
static inline int32_t high_half(uint32_t word) { return (int16_t)(word >> 16); }
static inline uint32_t pack_halves(int32_t low, int32_t high) { return ((uint32_t)low & 0xFFFF) | (uint32_t)high << 16; }
static inline uint32_t even_bytes_plus(uint32_t word, uint32_t offset) {
  return pack_halves(low_half(offset) + (int8_t)word, high_half(offset) + (int8_t)(word >> 16));
}
static inline uint32_t odd_bytes_plus(uint32_t word, uint32_t offset) { return even_bytes_plus(word >> 8, offset); }
static inline uint32_t even_bytes(uint32_t word) { return even_bytes_plus(word, 0); }
static inline uint32_t odd_bytes(uint32_t word) { return even_bytes_plus(word >> 8, 0); }
static inline int32_t dot2(uint32_t a, uint32_t b, int32_t sum) {
  return sum + low_half(a) * low_half(b) + high_half(a) * high_half(b);
}
static inline int32_t dot_low(int32_t a, uint32_t b, int32_t sum) { return sum + a * low_half(b); }
static inline int32_t dot_high(int32_t a, uint32_t b, int32_t sum) { return sum + a * high_half(b); }
static inline int32_t high_product(int32_t a, int32_t b) { return (int32_t)(((int64_t)a * b + 0x80000000LL) >> 32); }

#endif

/* Two words, and on to the next; they are aligned. */
static inline uint32_t next_two(const uint32_t **from, uint32_t *second) {
  uint32_t first;
#ifdef __thumb2__ /* any two registers; in ARM mode they would have to be neighbors */
  __asm__("ldrd %0, %1, [%2], #8" : "=&r"(first), "=&r"(*second), "+r"(*from) : : "memory");
#else
  first = load4(*from);
  *second = load4(*from + 1);
  *from += 2;
#endif
  return first;
}

static inline int32_t rescale(const scaling *s, int32_t value) {
  if (s->right) {
    int32_t high = high_product(shift_left(value, 1), s->multiplier);
    return (high + (high >> 31) + s->add) >> s->right;
  }
  return high_product(shift_left(value, 1 + s->left), s->multiplier) + s->add;
}

/* --- Lanes: what kernels that go element by element compute with; here one number ---------------------------------- */

enum { LANES = 1 };
typedef int32_t lanes;

/* The first `left` numbers from an address, and every step-th. */
static inline lanes load(const int8_t *from, int left) { return (void)left, *from; }
static inline lanes load_every(const int8_t *from, int step, int left) { return (void)step, (void)left, *from; }
static inline lanes load_words(const int32_t *from, int left) { return (void)left, *from; }
static inline void store_words(int32_t *to, int left, lanes value) { (void)left, *to = value; }
static inline lanes same(int32_t value) { return value; }
static inline void store(int8_t *to, int left, lanes value) { (void)left, *to = (int8_t)saturate8(value); }
static inline lanes greater(lanes a, lanes b) { return a > b ? a : b; }
static inline lanes lesser(lanes a, lanes b) { return a < b ? a : b; }
/* sum / count, ties away from zero */
static inline lanes mean_of(lanes sum, int count) { return (sum > 0 ? sum + count / 2 : sum - count / 2) / count; }
/* Each by its own multiplier and shift. */
static inline lanes rescale_each(const int32_t *multiplier, const int8_t *shift, int zero, int left, lanes value) {
  scaling s = scaling_of(*multiplier, *shift, zero);
  (void)left;
  return rescale(&s, value);
}

/* --- Bytes ---------------------------------------------------------------------------------------------------------- */

static inline void copy_bytes(int8_t *to, const int8_t *from, int count) {
  int i = 0;
  for (; i + 4 <= count; i += 4) copy4(to + i, from + i);
  for (; i < count; ++i) to[i] = from[i];
}

/* The sum of weight * (value - zero) */
static inline int32_t dot(const int8_t *weights, const int8_t *values, int count, int zero) {
  int32_t sum = 0;
  for (int i = 0; i < count; ++i) sum += weights[i] * (values[i] - zero);
  return sum;
}

/* --- Quads: sums of 4 pixels against one run of weights ------------------------------------------------------------ */

/* Where values lie: one quad of pixels at a time, in the scratch space. */
#define QUAD_SPACE(scratch, count) \
  int8_t *const quads = (scratch); \
  enum { max_quads = 1 }

typedef struct {
  int32_t a, b, d, e;
} quad;

/* One pixel's values beside those of 3 others, as [words][4 pixels][even, odd] of halves without their zero point. */
static inline void interleave(int8_t *quads, int pixel, const int8_t *values, int count, uint32_t flip, int zero) {
  const uint32_t offset = pack_halves(-zero, -zero);
  uint32_t *const halves = (uint32_t *)(void *)quads, *const end = halves + 2 * count;
  for (uint32_t *to = halves + 2 * pixel; to < end; to += 8, values += 4) {
    uint32_t word = load4(values) ^ flip;
    to[0] = even_bytes_plus(word, offset);
    to[1] = odd_bytes_plus(word, offset);
  }
}

/* bias + the sums of weight * value; on to the next weights. `count` is a multiple of 8. */
static inline quad dot_quad(const int8_t **weights, const int8_t *quads, int count, int32_t bias) {
  const uint32_t *weight = (const void *)*weights, *value = (const void *)quads, *const end = value + 2 * count;
  int32_t a = bias, b = a, d = a, e = a;
  while (value != end) {
    uint32_t second, odd_value, first = next_two(&weight, &second), even_value;
    for (int half = 0; half < 2; ++half) {
      const uint32_t even = even_bytes(first), odd = odd_bytes(first);
      first = second;
      even_value = next_two(&value, &odd_value);
      a = dot2(odd_value, odd, dot2(even_value, even, a));
      even_value = next_two(&value, &odd_value);
      b = dot2(odd_value, odd, dot2(even_value, even, b));
      even_value = next_two(&value, &odd_value);
      d = dot2(odd_value, odd, dot2(even_value, even, d));
      even_value = next_two(&value, &odd_value);
      e = dot2(odd_value, odd, dot2(even_value, even, e));
    }
  }
  *weights = (const void *)weight;
  const quad sums = {a, b, d, e};
  return sums;
}

/* Rescale and write the first `pixels` sums, `step` bytes apart. */
static inline void write_quad(int8_t *to, int step, int pixels, const scaling *s, quad sums) {
  int32_t a = saturate8(rescale(s, sums.a)), b = saturate8(rescale(s, sums.b));
  int32_t d = saturate8(rescale(s, sums.d)), e = saturate8(rescale(s, sums.e));
  to[0] = (int8_t)a;
  if (pixels == 4) {
    to[step] = (int8_t)b, to[2 * step] = (int8_t)d, to[3 * step] = (int8_t)e;
    return;
  }
  if (pixels > 1) to[step] = (int8_t)b;
  if (pixels > 2) to[2 * step] = (int8_t)d;
}

/* Write a channel of the first `pixels` pixels; on to the next channel's weights. */
static inline void write_channel(const reid_conv *p, int c, const int8_t **weights, const int8_t *quads, int count,
                                 int pixels, int8_t *to) {
  const quad sums = dot_quad(weights, quads, count, p->bias ? p->bias[c] : 0);
  const scaling s = scaling_of(p->multiplier[c], p->shift[c], p->out_zero);
  write_quad(to, p->out_channels, pixels, &s, sums);
}

/* --- Depthwise convolution by 3x3 ------------------------------------------------------------------------------------ */

/* 3x3 with stride 1 or 2 and at most one column of border on each side, column by column: each adds to the output that it completes, the next, and the one after.
 * The weights (row, column) of a channel are stored 00 01 10 11 02 20 12 21 22, so that the even and the odd bytes of the
 * first two words are pairs: the upper two of the left, middle and right column, and the lower of left and middle. */
static inline void depthwise3(const reid_depthwise *p, const int8_t *const *rows, int8_t *out, const int stride) {
  const uint32_t pixel = p->channels, end = p->in_width * pixel;
  const int8_t *const top = rows[0], *const middle = rows[1], *const bottom = rows[2];
  const int padded = p->pad_left;
  const uint32_t upper_border = pack_halves(p->in_zero, p->in_zero);

  for (uint32_t c = 0; c < pixel; ++c) {
    const int8_t *const w = p->weights + 9 * c;
    const uint32_t first = load4(w), second = load4(w + 4);
    const uint32_t left = even_bytes(first), centre = odd_bytes(first), right = even_bytes(second);
    const uint32_t lower = odd_bytes(second), corner = (uint32_t)w[8];
    const int32_t bias = p->bias[c], border = p->in_zero;
    const scaling s = scaling_of(p->multiplier[c], p->shift[c], p->out_zero);
    int8_t *to = out + c, *const stop = to + p->out_width * pixel;
    uint32_t at = c, upper = upper_border;
    int32_t below = border, current, next;
#define LOAD_COLUMN() (upper = pack_halves(top[at], middle[at]), below = bottom[at], at += pixel)
#define WRITE(sum) (*to = (int8_t)saturate8(rescale(&s, sum)), to += pixel)
    if (!padded) LOAD_COLUMN();
    current = dot_low(below, lower, dot2(upper, left, bias));
    if (stride == 1) {
      LOAD_COLUMN();
      next = dot_low(below, lower, dot2(upper, left, bias));
      current = dot_high(below, lower, dot2(upper, centre, current));
      while (at < end) {
        LOAD_COLUMN();
        int32_t sum = dot_low(below, corner, dot2(upper, right, current));
        current = dot_high(below, lower, dot2(upper, centre, next));
        next = dot_low(below, lower, dot2(upper, left, bias));
        WRITE(sum);
      }
    } else {
      while (at + pixel < end) {
        LOAD_COLUMN();
        current = dot_high(below, lower, dot2(upper, centre, current));
        LOAD_COLUMN();
        int32_t sum = dot_low(below, corner, dot2(upper, right, current));
        current = dot_low(below, lower, dot2(upper, left, bias));
        WRITE(sum);
      }
      if (to != stop) {
        LOAD_COLUMN();
        current = dot_high(below, lower, dot2(upper, centre, current));
      }
    }
    if (to != stop) WRITE(dot_low(border, corner, dot2(upper_border, right, current)));
#undef LOAD_COLUMN
#undef WRITE
  }
}


#endif
