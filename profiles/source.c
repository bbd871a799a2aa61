#include "profiles/source.h"

const char *const hlm_source_kind_texts[] = {
#define X(name, text) text,
    HLM_SOURCE_MAP(X)
#undef X
        NULL,
};

static const struct hlm_json_field fields[] = {
    {.name = "kind",
     .type = HLM_JSON_ENUM,
     .offset = offsetof(struct hlm_source, kind),
     .flags = HLM_FIELD_REQUIRED,
     .enums = hlm_source_kind_texts,
     .doc = "How the number is known."},
    {.name = "reference",
     .type = HLM_JSON_STRING,
     .offset = offsetof(struct hlm_source, reference),
     .doc = "published: document or repository@commit; assumed: the reasoning; measured: device, "
            "driver or library."},
    {.name = "date",
     .type = HLM_JSON_STRING,
     .offset = offsetof(struct hlm_source, date),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .doc = "Day of the measurement, YYYY-MM-DD."},
    {.name = "num_samples",
     .type = HLM_JSON_INT,
     .offset = offsetof(struct hlm_source, num_samples),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .max = 1e9,
     .doc = "Points behind a fit; 0: not a fit."},
    {.name = "spread_frac",
     .type = HLM_JSON_DOUBLE,
     .offset = offsetof(struct hlm_source, spread_frac),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .max = 10.0,
     .doc = "Median relative error of the fit, or relative spread of the samples; 0: unknown."},
    {.name = NULL},
};

const struct hlm_json_table hlm_source_table = {"source", sizeof(struct hlm_source), fields};
