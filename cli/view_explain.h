/* view_explain: an explanation for people. */
#ifndef HLM_CLI_VIEW_EXPLAIN_H
#define HLM_CLI_VIEW_EXPLAIN_H

#include <stdio.h>

#include "planner/explain.h"

/* What limits the plan, its memory and links, and what changed inputs would give. */
void hlm_view_explain_limits(FILE *out, struct hlm_arena *arena,
                             const struct hlm_explanation *explanation);

/* One alternative: the rule that it breaks; what it misses and what would let it fit; or the parts
 * of the time and the memory by which it differs. */
void hlm_view_explain_alternative(FILE *out, struct hlm_arena *arena,
                                  const struct hlm_explanation *explanation,
                                  const struct hlm_explain_alternative *alternative);

/* A row per alternative that was priced: by how much it differs, and mostly in what. */
void hlm_view_explain_runners_up(FILE *out, struct hlm_arena *arena,
                                 const struct hlm_explanation *explanation);

#endif
