/* model_hf_table: which keys of a Hugging Face config.json mean what, by architecture; data for
 * model_hf.c.
 *
 * A new architecture is a row here: what it fixes, the defaults of its configuration class, its
 * keys.
 */
#ifndef HLM_PROFILES_MODEL_HF_TABLE_H
#define HLM_PROFILES_MODEL_HF_TABLE_H

#include <stddef.h>

#include "profiles/model.h"

/* How a value of config.json becomes a field. HLM_HF_FIELD takes type and range from the model's
 * own field table, so an imported model can always be written and read back. */
enum hlm_hf_key_kind {
    HLM_HF_FIELD, /* the value itself; null: 0, which hlm_model_complete derives or which means none
                   */
    HLM_HF_ACTIVATION, /* name of a function, checked against the architecture's MLP */
    HLM_HF_BIAS,       /* bool: all projections of attention */
    HLM_HF_PARALLEL,   /* bool: parallel residual */
    HLM_HF_LABELS,     /* object: one member per class */
    HLM_HF_FALSE,      /* bool that stands for a feature which a model here can't have */
    HLM_HF_EMPTY,      /* array likewise */
    HLM_HF_ABSOLUTE    /* string: the only kind of positions that the architecture has here */
};

struct hlm_hf_key {
    const char *name; /* "a.b": key b in object a */
    enum hlm_hf_key_kind kind;
    size_t offset; /* in struct hlm_model */
};

/* `base`: what the architecture fixes, and the defaults of its configuration class in transformers,
 * which count where config.json lacks a key. */
struct hlm_hf_architecture {
    const char *model_type;
    struct hlm_model base;
    const struct hlm_hf_key *keys; /* ends with a row whose name is NULL */
    enum hlm_status (*finish)(struct hlm_model *model, const char *where, struct hlm_err *err);
};

extern const struct hlm_hf_architecture hlm_hf_architectures[]; /* ends with model_type NULL */

#endif
