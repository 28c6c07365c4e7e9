/* SPDX-License-Identifier: Apache-2.0 */
/* Who is it? Identities as running mean directions of their embeddings' codes, asked one image at a time or followed
 * over frames. C99, no heap, integers alone: every machine gives what `reidlab.deploy.device_gallery` gives in Python.
 *
 *     static uint32_t memory[REID_GALLERY_WORDS(32, REID_EMBEDDING_SIZE, 8)];  // 32 identities, 8 crops a frame
 *     reid_gallery gallery;
 *     reid_gallery_init(&gallery, memory, 32, REID_EMBEDDING_SIZE, 8, REID_EMBEDDING_ZERO);
 *     uint32_t alice = reid_enroll(&gallery, codes);
 *     reid_match found = reid_identify(&gallery, other_codes);
 *     if (found.distance <= REID_UNITS(REID_COSINE_THRESHOLD)) ...  // it is found.identity
 */
#ifndef REID_GALLERY_H
#define REID_GALLERY_H

#include "reid_distance.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  uint32_t number;    /* from 1; 0: a free place */
  uint32_t seen;      /* frame of the last sighting, or REID_ENROLLED */
  uint32_t looks;     /* embeddings in the mean */
  uint32_t length;    /* of the direction, by reid_length */
} reid_identity;

#define REID_ENROLLED 0xFFFFFFFFu

typedef struct {
  reid_identity *identities;
  int16_t *directions;    /* [capacity][size], of length 16384 */
  int32_t *distances;     /* [crops][capacity] */
  int capacity, size, crops, zero;
  uint32_t last;          /* number given */
} reid_gallery;

#define REID_GALLERY_WORDS(capacity, size, crops) \
  ((capacity) * ((int)(sizeof(reid_identity) / 4) + (crops)) + ((capacity) * (size) + 1) / 2)

/* An identity and the distance to it, in the units of reid_code_distance. identity 0: nobody. */
typedef struct {
  uint32_t identity;
  int32_t distance;
} reid_match;

/* `memory` has REID_GALLERY_WORDS(capacity, size, crops) words; zero: of the codes. */
void reid_gallery_init(reid_gallery *gallery, uint32_t *memory, int capacity, int size, int crops, int zero);

/* Add an identity that stays until it is forgotten; its number, or 0 where no place is free or all codes are zero. */
uint32_t reid_enroll(reid_gallery *gallery, const int8_t *codes);

/* Take one more embedding of an identity into its mean, with a share of 1 / looks or, if larger, of share / 32768
 * (an exponential moving average). 0, or -1 where there is no such identity. */
int reid_learn(reid_gallery *gallery, uint32_t identity, const int8_t *codes, int32_t share);

/* 0, or -1 where there is no such identity. */
int reid_forget(reid_gallery *gallery, uint32_t identity);

/* The nearest identity, the one in the first place among equals; nobody at distance 65536 in an empty gallery. */
reid_match reid_identify(const reid_gallery *gallery, const int8_t *codes);

typedef struct {
  int32_t same;       /* distance up to which a crop goes on with an identity seen in the last `gap` frames */
  int32_t again;      /* the same for one that was enrolled, or comes back after a longer time */
  uint32_t gap;
  uint32_t memory;    /* frames after which an identity that isn't enrolled is forgotten */
  int32_t share;      /* of a crop in the mean of its identity, see reid_learn; enrolled ones stay as they are */
} reid_rules;

/* The identities of a frame's crops: of all pairs within the rules' distances the nearest is joined first, then the
 * nearest of the others (greedy), each identity once a frame. A crop without one is a new identity; where no place is
 * free it takes that of the one unseen for longest. Appearance alone decides, not where a crop is.
 *
 * codes: [count][size], at most `crops` of them; frame: its number, not below those before. found: [count], of a new
 * identity with the distance to the nearest other; identity 0 for codes that are all zero, or without a place. */
void reid_follow(reid_gallery *gallery, const int8_t *codes, int count, uint32_t frame, const reid_rules *rules,
                 reid_match *found);

#ifdef __cplusplus
}
#endif

#endif
