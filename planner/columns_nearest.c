#include "planner/columns_nearest.h"

#include <stddef.h>

/* A requirement that is a number of a family's strategy. */
struct key {
    const char *name;
    size_t require_offset, strategy_offset;
    bool is_int64;
};
#define KEY(member, is_int64)                                                                      \
    {                                                                                              \
#member, offsetof(struct hlm_search_require, member),                                      \
            offsetof(struct hlm_strategy, member), is_int64                                        \
    }
static const struct key keys[] = {KEY(tp, false), KEY(pp, false), KEY(dp, false),
                                  KEY(cp, false), KEY(ep, false), KEY(microbatch_size, true)};
#undef KEY

static int64_t read_number(const void *object, size_t offset, bool is_int64)
{
    const void *at = (const char *)object + offset;
    return is_int64 ? *(const int64_t *)at : *(const int32_t *)at;
}

static void leave_free(struct hlm_search_require *require, const struct key *key)
{
    void *at = (char *)require + key->require_offset;
    if (key->is_int64) {
        *(int64_t *)at = 0;
    } else {
        *(int32_t *)at = 0;
    }
}

/* Appends the legal values around the one that is required. */
static void add_key(struct hlm_arena *scratch, const struct hlm_search_problem *problem,
                    const struct key *key, struct hlm_text *text)
{
    const int64_t asked = read_number(&problem->require, key->require_offset, key->is_int64);
    struct hlm_search_problem freer = *problem;
    const struct hlm_column_family *families = NULL;
    int32_t num_families = 0;
    struct hlm_err unused;
    leave_free(&freer.require, key);
    if (asked == 0 ||
        hlm_columns_families(scratch, &freer, &families, &num_families, &unused) != HLM_OK) {
        return;
    }
    int64_t below = 0, above = INT64_MAX;
    for (int32_t i = 0; i < num_families; i++) {
        const int64_t value =
            read_number(&families[i].strategy, key->strategy_offset, key->is_int64);
        below = value < asked && value > below ? value : below;
        above = value > asked && value < above ? value : above;
    }
    const char *separator = text->length == 0 ? "; legal instead: " : " or ";
    if (below > 0) {
        hlm_text_printf(text, "%s%s=%lld", separator, key->name, (long long)below);
        separator = " or ";
    }
    if (above < INT64_MAX) {
        hlm_text_printf(text, "%s%s=%lld", separator, key->name, (long long)above);
    }
}

const char *hlm_columns_nearest(struct hlm_arena *arena, const struct hlm_search_problem *problem)
{
    struct hlm_arena *scratch = hlm_arena_new();
    const struct hlm_column_family *families = NULL;
    int32_t num_families = 0;
    struct hlm_err unused;
    struct hlm_text text;
    hlm_text_init(&text, arena);
    if (hlm_columns_families(scratch, problem, &families, &num_families, &unused) != HLM_OK) {
        for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
            add_key(scratch, problem, &keys[i], &text);
        }
    }
    hlm_arena_free(scratch);
    return text.length > 0 ? text.text : "";
}
