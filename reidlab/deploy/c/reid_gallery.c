/* SPDX-License-Identifier: Apache-2.0 */
#include "reid_gallery.h"

enum { FARTHEST = 65536, NOBODY = -1 };

void reid_gallery_init(reid_gallery *gallery, uint32_t *memory, int capacity, int size, int crops, int zero) {
  gallery->identities = (reid_identity *)memory;
  gallery->distances = (int32_t *)(gallery->identities + capacity);
  gallery->directions = (int16_t *)(gallery->distances + crops * capacity);
  gallery->capacity = capacity;
  gallery->size = size;
  gallery->crops = crops;
  gallery->zero = zero;
  gallery->last = 0;
  for (int i = 0; i < capacity; i++) gallery->identities[i].number = 0;
}

static int16_t *direction_of(const reid_gallery *gallery, int place) {
  return gallery->directions + place * gallery->size;
}

static uint32_t length_of(const reid_gallery *gallery, const int8_t *codes) {
  uint32_t squares = 0;
  for (int i = 0; i < gallery->size; i++) {
    const int32_t value = codes[i] - gallery->zero;
    squares += (uint32_t)(value * value);
  }
  return reid_length(squares);
}

static int32_t distance_to(const reid_gallery *gallery, int place, const int8_t *codes, uint32_t length) {
  const int16_t *direction = direction_of(gallery, place);
  const int32_t zero = gallery->zero;
  int32_t dot = 0;
  for (int i = 0; i < gallery->size; i++) dot += (codes[i] - zero) * direction[i];
  return reid_units(dot, length, gallery->identities[place].length);
}

/* Move an identity's direction by share / 32768 of the way to that of an embedding. */
static void move(reid_gallery *gallery, int place, const int8_t *codes, uint32_t length, int32_t share) {
  int16_t *direction = direction_of(gallery, place);
  const int32_t shrunk = (int32_t)(length >> 8); /* so that the division stays in 32 bits */
  uint32_t squares = 0;
  for (int i = 0; i < gallery->size; i++) {
    const int32_t unit = (codes[i] - gallery->zero) * (1 << 22) / shrunk, before = direction[i];
    const int32_t value = before + (((unit - before) * share + (1 << 14)) >> 15);
    direction[i] = (int16_t)value;
    squares += (uint32_t)(value * value);
  }
  gallery->identities[place].length = reid_length(squares);
}

static void begin(reid_gallery *gallery, int place, const int8_t *codes, uint32_t length, uint32_t seen) {
  int16_t *direction = direction_of(gallery, place);
  const reid_identity identity = {++gallery->last, seen, 1, 0};
  for (int i = 0; i < gallery->size; i++) direction[i] = 0;
  gallery->identities[place] = identity;
  move(gallery, place, codes, length, 1 << 15);
}

static void learn(reid_gallery *gallery, int place, const int8_t *codes, uint32_t length, int32_t share) {
  const int32_t mean = (int32_t)(32768 / ++gallery->identities[place].looks);
  move(gallery, place, codes, length, share > mean ? share : mean);
}

static int place_of(const reid_gallery *gallery, uint32_t identity) {
  for (int i = 0; i < gallery->capacity; i++)
    if (gallery->identities[i].number == identity) return i;
  return NOBODY;
}

uint32_t reid_enroll(reid_gallery *gallery, const int8_t *codes) {
  const uint32_t length = length_of(gallery, codes);
  const int place = place_of(gallery, 0);
  if (place == NOBODY || !length) return 0;
  begin(gallery, place, codes, length, REID_ENROLLED);
  return gallery->last;
}

int reid_learn(reid_gallery *gallery, uint32_t identity, const int8_t *codes, int32_t share) {
  const uint32_t length = length_of(gallery, codes);
  const int place = place_of(gallery, identity);
  if (place == NOBODY || !identity) return -1;
  if (length) learn(gallery, place, codes, length, share);
  return 0;
}

int reid_forget(reid_gallery *gallery, uint32_t identity) {
  const int place = place_of(gallery, identity);
  if (place == NOBODY || !identity) return -1;
  gallery->identities[place].number = 0;
  return 0;
}

reid_match reid_identify(const reid_gallery *gallery, const int8_t *codes) {
  reid_match found = {0, FARTHEST};
  const uint32_t length = length_of(gallery, codes);
  for (int i = 0; i < gallery->capacity; i++) {
    if (!gallery->identities[i].number) continue;
    const reid_match match = {gallery->identities[i].number, distance_to(gallery, i, codes, length)};
    if (!found.identity || match.distance < found.distance) found = match;
  }
  return found;
}

static int is_enrolled(const reid_identity *identity) { return identity->seen == REID_ENROLLED; }

/* A place for a new identity: a free one, or that of the identity unseen for longest before this frame. */
static int make_place(const reid_gallery *gallery, uint32_t frame) {
  int oldest = NOBODY;
  for (int i = 0; i < gallery->capacity; i++) {
    const reid_identity *identity = gallery->identities + i;
    if (!identity->number) return i;
    if (is_enrolled(identity) || identity->seen == frame) continue;
    if (oldest == NOBODY || identity->seen < gallery->identities[oldest].seen) oldest = i;
  }
  return oldest;
}

void reid_follow(reid_gallery *gallery, const int8_t *codes, int count, uint32_t frame, const reid_rules *rules,
                 reid_match *found) {
  for (int i = 0; i < gallery->capacity; i++) {
    reid_identity *identity = gallery->identities + i;
    if (!is_enrolled(identity) && frame - identity->seen > rules->memory) identity->number = 0;
  }
  /* Distances within the rules; the others, those of free places among them, are the farthest. */
  for (int c = 0; c < count; c++) {
    const int8_t *crop = codes + c * gallery->size;
    const uint32_t length = length_of(gallery, crop);
    found[c].identity = 0;
    found[c].distance = FARTHEST;
    for (int i = 0; i < gallery->capacity; i++) {
      const reid_identity *identity = gallery->identities + i;
      int32_t *distance = gallery->distances + c * gallery->capacity + i;
      *distance = FARTHEST;
      if (!identity->number || !length) continue;
      const int32_t d = distance_to(gallery, i, crop, length);
      const int lately = !is_enrolled(identity) && frame - identity->seen <= rules->gap;
      if (d < found[c].distance) found[c].distance = d;
      if (d <= (lately ? rules->same : rules->again)) *distance = d;
    }
  }
  for (;;) {
    int crop = NOBODY, place = NOBODY;
    int32_t nearest = FARTHEST;
    for (int c = 0; c < count; c++)
      for (int i = 0; i < gallery->capacity; i++)
        if (gallery->distances[c * gallery->capacity + i] < nearest) {
          nearest = gallery->distances[c * gallery->capacity + i];
          crop = c;
          place = i;
        }
    if (crop == NOBODY) break;
    reid_identity *identity = gallery->identities + place;
    const int8_t *its_codes = codes + crop * gallery->size;
    found[crop].identity = identity->number;
    found[crop].distance = nearest;
    if (!is_enrolled(identity)) {
      identity->seen = frame;
      learn(gallery, place, its_codes, length_of(gallery, its_codes), rules->share);
    }
    for (int i = 0; i < gallery->capacity; i++) gallery->distances[crop * gallery->capacity + i] = FARTHEST;
    for (int c = 0; c < count; c++) gallery->distances[c * gallery->capacity + place] = FARTHEST;
  }
  for (int c = 0; c < count; c++) {
    const int8_t *crop = codes + c * gallery->size;
    const uint32_t length = length_of(gallery, crop);
    const int place = found[c].identity || !length ? NOBODY : make_place(gallery, frame);
    if (place == NOBODY) continue;
    begin(gallery, place, crop, length, frame);
    found[c].identity = gallery->last;
  }
}
