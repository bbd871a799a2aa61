/* view: a plan for people. Every function prints one section; numbers come from the plan alone. */
#ifndef HLM_CLI_VIEW_H
#define HLM_CLI_VIEW_H

#include <stdbool.h>
#include <stdio.h>

#include "planner/plan.h"

/* "dp 8, tp 4, pp 2, sp, zero 1, 1f1b, 16 microbatches of 1, bf16": degrees of 1 are left out
 * beyond the first three. */
const char *hlm_view_strategy(struct hlm_arena *arena, const struct hlm_strategy *strategy);

/* "2 on h100: 24 microbatches each; 2 on a100: 12 each"; empty where all replicas are alike. */
const char *hlm_view_replicas(struct hlm_arena *arena, const struct hlm_strategy *strategy,
                              const struct hlm_cluster *cluster);

/* "none", "full", or "selective in 5 of 32 layers, full in 2". */
const char *hlm_view_recompute(struct hlm_arena *arena, const struct hlm_plan_stage *stages,
                               int32_t num_stages);

/* The name of a part of a time as people read it: "memory_bound_s" is "memory bound". */
const char *hlm_view_part_name(struct hlm_arena *arena, const char *name);

/* What is trained on what, the strategy, step time, tokens/s, MFU with its convention, price,
 * memory of the fullest stage against its limit. */
void hlm_view_summary(FILE *out, struct hlm_arena *arena, const struct hlm_plan *plan);

/* A row per stage: layers, recompute, device, memory. */
void hlm_view_stages(FILE *out, struct hlm_arena *arena, const struct hlm_plan *plan);

/* The tree of a step's time with shares. */
void hlm_view_parts(FILE *out, struct hlm_arena *arena, const struct hlm_time_node *step);

/* The largest leaves of that tree, in a sentence. */
void hlm_view_limits(FILE *out, struct hlm_arena *arena, const struct hlm_time_node *step);

/* Bound, gap and counts; nothing without a certificate. */
void hlm_view_certificate(FILE *out, const struct hlm_plan_certificate *certificate);

/* A row per runner-up; nothing without any. */
void hlm_view_runners_up(FILE *out, struct hlm_arena *arena, const struct hlm_plan *plan);

/* All of the above. */
void hlm_view_plan(FILE *out, struct hlm_arena *arena, const struct hlm_plan *plan);

/* The answer of a command that made a plan: stamps it (date, machine, version, search_cpu_s),
 * writes it to the file `output` (NULL: none; "-": stdout, and nothing else is printed there), and
 * prints it on stdout, as JSON or for people. */
HLM_MUST_CHECK enum hlm_status hlm_view_answer(struct hlm_arena *arena, const struct hlm_plan *plan,
                                               double search_cpu_s, const char *output, bool json,
                                               struct hlm_err *err);

/* What varies between equal runs, for the meta of an answer. */
struct hlm_plan_meta hlm_view_stamp(struct hlm_arena *arena, double search_cpu_s);

/* The machine's form of an answer to where it is wanted: the file `output`, stdout. *out_shown: it
 * is on stdout, or nothing is wanted there. */
HLM_MUST_CHECK enum hlm_status hlm_view_deliver(const char *text, const char *output, bool json,
                                                bool *out_shown, struct hlm_err *err);

#endif
