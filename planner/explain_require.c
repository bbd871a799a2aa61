#include <stddef.h>

#include "planner/explain_internal.h"

struct key_row {
    const char *name;
    size_t offset, size;
    int64_t free_value;
};
static const struct key_row rows[HLM_NUM_EXPLAIN_KEYS] = {
#define X(name, member, free_value)                                                                \
    {#member, offsetof(struct hlm_search_require, member),                                         \
     sizeof(((struct hlm_search_require *)NULL)->member), free_value},
    HLM_EXPLAIN_KEY_MAP(X)
#undef X
};

static const char *const switch_texts[] = {"false", "true"};

int64_t hlm_explain_required(const struct hlm_search_require *require, enum hlm_explain_key key)
{
    const void *value = (const char *)require + rows[key].offset;
    return rows[key].size == sizeof(int64_t) ? *(const int64_t *)value : *(const int32_t *)value;
}

bool hlm_explain_requires(const struct hlm_search_require *require, enum hlm_explain_key key)
{
    return hlm_explain_required(require, key) != rows[key].free_value;
}

void hlm_explain_require(struct hlm_search_require *require, enum hlm_explain_key key,
                         int64_t value)
{
    void *target = (char *)require + rows[key].offset;
    if (rows[key].size == sizeof(int64_t)) {
        *(int64_t *)target = value;
    } else {
        *(int32_t *)target = (int32_t)value;
    }
}

void hlm_explain_free_key(struct hlm_search_require *require, enum hlm_explain_key key)
{
    hlm_explain_require(require, key, rows[key].free_value);
}

/* The texts of a key whose values are no numbers; NULL for the others. */
static const char *const *texts_of(enum hlm_explain_key key)
{
    switch (key) {
    case HLM_EXPLAIN_KEY_SP:
        return switch_texts;
    case HLM_EXPLAIN_KEY_SCHEDULE:
        return hlm_schedule_texts;
    case HLM_EXPLAIN_KEY_RECOMPUTE:
        return hlm_recompute_texts;
    case HLM_EXPLAIN_KEY_OFFLOAD:
        return hlm_offload_texts;
    default:
        return NULL;
    }
}

const char *hlm_explain_key_text(struct hlm_arena *arena, enum hlm_explain_key key, int64_t value)
{
    const char *const *texts = texts_of(key);
    return texts != NULL ? hlm_arena_printf(arena, "%s=%s", rows[key].name, texts[value])
                         : hlm_arena_printf(arena, "%s=%lld", rows[key].name, (long long)value);
}

const char *hlm_explain_require_text(struct hlm_arena *arena,
                                     const struct hlm_search_require *require)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    for (int key = 0; key < HLM_NUM_EXPLAIN_KEYS; key++) {
        if (hlm_explain_requires(require, (enum hlm_explain_key)key)) {
            const int64_t value = hlm_explain_required(require, (enum hlm_explain_key)key);
            hlm_text_printf(&text, "%s%s", text.length > 0 ? ", " : "",
                            hlm_explain_key_text(arena, (enum hlm_explain_key)key, value));
        }
    }
    return text.length > 0 ? text.text : "anything";
}

struct hlm_search_require hlm_explain_merge(const struct hlm_search_require *own,
                                            const struct hlm_search_require *asked)
{
    static const enum hlm_explain_key degrees[] = {HLM_EXPLAIN_KEY_DP, HLM_EXPLAIN_KEY_TP,
                                                   HLM_EXPLAIN_KEY_PP, HLM_EXPLAIN_KEY_CP};
    struct hlm_search_require merged = *own;
    bool names_degree = false;
    for (size_t i = 0; i < sizeof(degrees) / sizeof(degrees[0]); i++) {
        names_degree = names_degree || hlm_explain_requires(asked, degrees[i]);
    }
    for (size_t i = 0; names_degree && i < sizeof(degrees) / sizeof(degrees[0]); i++) {
        hlm_explain_free_key(&merged, degrees[i]);
    }
    for (int key = 0; key < HLM_NUM_EXPLAIN_KEYS; key++) {
        if (hlm_explain_requires(asked, (enum hlm_explain_key)key)) {
            hlm_explain_require(&merged, (enum hlm_explain_key)key,
                                hlm_explain_required(asked, (enum hlm_explain_key)key));
        }
    }
    return merged;
}
