/* experts: where rows of a mixture of experts lie, as the kernels of experts.c see it.
 *
 * A row per choice, sorted by expert: the rows of one expert stand together, in order of their
 * source row, behind those of lower experts. PERMUTE and UNPERMUTE find the same places from the
 * choices alone, so nothing but these is kept between the passes.
 */
#ifndef HLM_EXEC_CPU_EXPERTS_H
#define HLM_EXEC_CPU_EXPERTS_H

#include <stdint.h>

/* The place of the next choice of each expert. */
struct hlm_cpu_places {
    int32_t *next; /* [num_experts] */
};

/* From num_choices choices; `next` is memory for num_experts numbers. */
void hlm_cpu_places_init(struct hlm_cpu_places *places, int32_t *next, int32_t num_experts,
                         const int32_t *choice, int64_t num_choices);
/* The place of a choice; called for all of them in order. */
int64_t hlm_cpu_places_take(struct hlm_cpu_places *places, int32_t expert);

/* The n highest of k scores in descending order, equal ones by lower index: their indices and
 * values. */
void hlm_cpu_top_k(const float *scores, int64_t k, int64_t n, int32_t *index, float *value);

#endif
