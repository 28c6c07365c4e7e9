/* A QEMU plugin that prints how many instructions run between two addresses: -plugin count.so,begin=ADDR,end=ADDR
 *
 * At each part=ADDR in between it prints how many ran since the last. With blocks=1 it prints at the end, for each basic
 * block that ran: address, instructions, executions, and those that were reached by a taken branch. With code=SETSxWAYSxLINE
 * and data=SETSxWAYSxLINE it simulates caches (least recently used), and prints how many lines were fetched: code and
 * constants, from below ram=ADDR, and with cached=1 data of the RAM. Without data=, all go through the code's cache.
 * Written against the plugin interface of QEMU 7.2, version 1; the few prototypes that it needs are declared here.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
_Bool qemu_plugin_mem_is_store(uint32_t);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t, void (*)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, void (*)(unsigned, uint32_t, uint64_t, void *), int, int,
                                      void *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { ADD_U64 = 0, NO_REGISTERS = 0, READS_AND_WRITES = 3 };

enum { MAX_PARTS = 64 };

typedef struct block {
  uint64_t start, end, instructions, executed, taken;
  struct block *next;
} block;

typedef struct {
  uint64_t sets, ways, line, *tags; /* of each set, the last used first */
} cache;

static uint64_t executed, begin_count, part_count, begin, end, parts[MAX_PARTS];
static int part_addresses, by_block, is_ram_cached;
static uint64_t ram, previous_end, code_lines, constant_lines, data_lines;
static block *blocks;
static cache code, data;

static int is_missed(cache *c, uint64_t address) {
  const uint64_t tag = address / c->line + 1; /* 0 is an empty way */
  uint64_t *set = c->tags + tag % c->sets * c->ways, way = 0;
  while (way < c->ways - 1 && set[way] != tag) ++way;
  const int missed = set[way] != tag;
  memmove(set + 1, set, way * sizeof *set);
  set[0] = tag;
  return missed;
}

static void at_block(unsigned cpu, void *given) {
  (void)cpu;
  block *b = given;
  ++b->executed;
  b->taken += b->start != previous_end;
  previous_end = b->end;
  if (code.sets)
    for (uint64_t at = b->start / code.line * code.line; at < b->end; at += code.line) code_lines += is_missed(&code, at);
}

static void at_access(unsigned cpu, uint32_t access, uint64_t address, void *given) {
  (void)cpu, (void)given;
  if (address >= ram && !is_ram_cached) return;
  const int missed = is_missed(data.sets ? &data : &code, address);
  if (qemu_plugin_mem_is_store(access)) return; /* a buffer hides what it waits for */
  *(address < ram ? &constant_lines : &data_lines) += missed;
}

static void at_begin(unsigned cpu, void *given) {
  (void)cpu, (void)given;
  begin_count = part_count = executed;
  code_lines = constant_lines = data_lines = 0;
  for (block *b = blocks; b; b = b->next) b->executed = b->taken = 0;
}

static void at_part(unsigned cpu, void *given) {
  (void)cpu, (void)given;
  fprintf(stderr, "part %" PRIu64 "\n", executed - part_count);
  part_count = executed;
}

static void at_end(unsigned cpu, void *given) {
  at_part(cpu, given);
  for (block *b = by_block ? blocks : NULL; b; b = b->next)
    if (b->executed)
      fprintf(stderr, "block %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", b->start, b->instructions, b->executed, b->taken);
  if (code.sets) fprintf(stderr, "lines %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", code_lines, constant_lines, data_lines);
  fprintf(stderr, "instructions %" PRIu64 "\n", executed - begin_count);
}

static void translated(uint64_t id, struct qemu_plugin_tb *translation) {
  (void)id;
  const size_t count = qemu_plugin_tb_n_insns(translation);
  for (size_t i = 0; i < count; ++i) {
    struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(translation, i);
    uint64_t address = qemu_plugin_insn_vaddr(instruction);
    if (address == begin) qemu_plugin_register_vcpu_insn_exec_cb(instruction, at_begin, NO_REGISTERS, NULL);
    for (int p = 0; p < part_addresses; ++p)
      if (address == parts[p]) qemu_plugin_register_vcpu_insn_exec_cb(instruction, at_part, NO_REGISTERS, NULL);
    if (address == end) qemu_plugin_register_vcpu_insn_exec_cb(instruction, at_end, NO_REGISTERS, NULL);
    if (by_block && i == 0) {
      const struct qemu_plugin_insn *last = qemu_plugin_tb_get_insn(translation, count - 1);
      const uint64_t after = qemu_plugin_insn_vaddr(last) + qemu_plugin_insn_size(last);
      block *b = malloc(sizeof *b);
      *b = (block){address, after, count, 0, 0, blocks};
      blocks = b;
      qemu_plugin_register_vcpu_insn_exec_cb(instruction, at_block, NO_REGISTERS, b);
    }
    if (code.sets) qemu_plugin_register_vcpu_mem_cb(instruction, at_access, NO_REGISTERS, READS_AND_WRITES, NULL);
    qemu_plugin_register_vcpu_insn_exec_inline(instruction, ADD_U64, &executed, 1);
  }
}

static cache cache_of(const char *text) {
  cache c = {0, 0, 0, NULL};
  if (sscanf(text, "%" SCNu64 "x%" SCNu64 "x%" SCNu64, &c.sets, &c.ways, &c.line) != 3) return (cache){0, 0, 0, NULL};
  c.tags = calloc(c.sets * c.ways, sizeof *c.tags);
  return c;
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info, int count, char **values) {
  (void)info;
  for (int i = 0; i < count; ++i) {
    if (!strncmp(values[i], "begin=", 6)) begin = strtoull(values[i] + 6, NULL, 0);
    if (!strncmp(values[i], "end=", 4)) end = strtoull(values[i] + 4, NULL, 0);
    if (!strncmp(values[i], "part=", 5) && part_addresses < MAX_PARTS)
      parts[part_addresses++] = strtoull(values[i] + 5, NULL, 0);
    if (!strncmp(values[i], "blocks=", 7)) by_block = atoi(values[i] + 7);
    if (!strncmp(values[i], "cached=", 7)) is_ram_cached = atoi(values[i] + 7);
    if (!strncmp(values[i], "ram=", 4)) ram = strtoull(values[i] + 4, NULL, 0);
    if (!strncmp(values[i], "code=", 5)) code = cache_of(values[i] + 5);
    if (!strncmp(values[i], "data=", 5)) data = cache_of(values[i] + 5);
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  return 0;
}
