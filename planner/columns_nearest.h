/* columns_nearest: what to require instead, where nothing that is legal is as required. */
#ifndef HLM_PLANNER_COLUMNS_NEAREST_H
#define HLM_PLANNER_COLUMNS_NEAREST_H

#include "planner/columns.h"

/* Of each degree and microbatch_size that is required: leaves it free, keeps all else, and names
 * the nearest values below and above with which there are legal columns, to be put behind the
 * message of hlm_columns_families: "; legal instead: tp=4 or tp=8". "": something is legal as
 * required, or no single other value makes it so. */
const char *hlm_columns_nearest(struct hlm_arena *arena, const struct hlm_search_problem *problem);

#endif
