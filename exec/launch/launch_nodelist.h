/* launch_nodelist: Slurm's short form of host names: "host[01-03,7],other", also with several
 * brackets in a name ("rack[1-2]n[1-4]"). Numbers keep the zeros in front of the first of a range,
 * as Slurm writes and reads them. */
#ifndef HLM_EXEC_LAUNCH_NODELIST_H
#define HLM_EXEC_LAUNCH_NODELIST_H

#include "base/arena.h"

enum { HLM_NODELIST_MAX = 65536 };

struct hlm_nodelist {
    const char **names; /* [num_names], in the order of the text; the last bracket counts fastest */
    int num_names;      /* >= 1 */
};

/* HLM_ENV: what is wrong with the text, or more than HLM_NODELIST_MAX names. */
HLM_MUST_CHECK enum hlm_status hlm_nodelist_parse(struct hlm_arena *arena, const char *text,
                                                  struct hlm_nodelist *out, struct hlm_err *err);

#endif
