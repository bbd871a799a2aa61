/* demo_model: what `hlmplan demo` trains, and the benchmark against PyTorch with it: a GPT-2-like
 * model of 10.7 M parameters over bytes. Its sizes are no powers of two, so no shape that a profile
 * measures is one of its own. */
#ifndef HLM_CLI_DEMO_MODEL_H
#define HLM_CLI_DEMO_MODEL_H

#include "profiles/model.h"

enum { HLM_DEMO_SEQ_LEN = 192, HLM_DEMO_GLOBAL_BATCH = 8 };

const struct hlm_model *hlm_demo_model(struct hlm_arena *arena);

/* English text to train on: the licence of this program, as built into it. *out_length in bytes. */
const char *hlm_demo_text(size_t *out_length);

#endif
