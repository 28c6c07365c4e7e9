/* A QEMU plugin that prints how many instructions run between two addresses: -plugin count.so,begin=ADDR,end=ADDR
 *
 * At each part=ADDR in between it prints how many ran since the last.
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
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t, void (*)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { ADD_U64 = 0, NO_REGISTERS = 0 };

enum { MAX_PARTS = 64 };

static uint64_t executed, begin_count, part_count, begin, end, parts[MAX_PARTS];
static int part_addresses;

static void at_begin(unsigned cpu, void *data) {
  (void)cpu, (void)data;
  begin_count = part_count = executed;
}

static void at_part(unsigned cpu, void *data) {
  (void)cpu, (void)data;
  fprintf(stderr, "part %" PRIu64 "\n", executed - part_count);
  part_count = executed;
}

static void at_end(unsigned cpu, void *data) {
  at_part(cpu, data);
  fprintf(stderr, "instructions %" PRIu64 "\n", executed - begin_count);
}

static void translated(uint64_t id, struct qemu_plugin_tb *block) {
  (void)id;
  for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); ++i) {
    struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
    uint64_t address = qemu_plugin_insn_vaddr(instruction);
    if (address == begin) qemu_plugin_register_vcpu_insn_exec_cb(instruction, at_begin, NO_REGISTERS, NULL);
    for (int p = 0; p < part_addresses; ++p)
      if (address == parts[p]) qemu_plugin_register_vcpu_insn_exec_cb(instruction, at_part, NO_REGISTERS, NULL);
    if (address == end) qemu_plugin_register_vcpu_insn_exec_cb(instruction, at_end, NO_REGISTERS, NULL);
    qemu_plugin_register_vcpu_insn_exec_inline(instruction, ADD_U64, &executed, 1);
  }
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info, int count, char **values) {
  (void)info;
  for (int i = 0; i < count; ++i) {
    if (!strncmp(values[i], "begin=", 6)) begin = strtoull(values[i] + 6, NULL, 0);
    if (!strncmp(values[i], "end=", 4)) end = strtoull(values[i] + 4, NULL, 0);
    if (!strncmp(values[i], "part=", 5) && part_addresses < MAX_PARTS)
      parts[part_addresses++] = strtoull(values[i] + 5, NULL, 0);
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  return 0;
}
