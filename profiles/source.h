/* source: where a number comes from. Every measured or published number in a profile carries one. */
#ifndef HLM_PROFILES_SOURCE_H
#define HLM_PROFILES_SOURCE_H

#include <stdint.h>

#include "base/json.h"

#define HLM_SOURCE_MAP(X) X(ASSUMED, "assumed") X(PUBLISHED, "published") X(MEASURED, "measured")
enum hlm_source_kind {
#define X(name, text) HLM_SOURCE_##name,
    HLM_SOURCE_MAP(X)
#undef X
};

extern const char *const hlm_source_kind_texts[]; /* ends with NULL */

struct hlm_source {
    enum hlm_source_kind kind;
    const char *reference; /* published: document or repository@commit; assumed: the reasoning;
                              measured: device, driver or library */
    const char *date;      /* measured: YYYY-MM-DD, else NULL */
    int32_t num_samples;   /* points behind a fit, 0: not a fit */
    double spread_frac;    /* median relative error of the fit, or relative spread of samples; 0: unknown */
};
extern const struct hlm_json_table hlm_source_table;

#endif
