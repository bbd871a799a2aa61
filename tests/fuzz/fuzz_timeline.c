/* The reader of timelines: whatever it accepts must have its views (Chrome trace, table of times),
 * be written, and read back to the same text. */
#include <string.h>

#include "schedule/timeline.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(struct hlm_arena *arena, const struct hlm_timeline *timeline)
{
    const struct hlm_timeline *both[] = {timeline, timeline};
    struct hlm_err err;
    struct hlm_json_foreign *parsed = NULL;
    const char *trace = hlm_chrome_trace(arena, both, 2);
    HLM_ASSERT(hlm_json_foreign_parse(arena, "trace", trace, strlen(trace), &parsed, &err) ==
               HLM_OK);
    hlm_json_foreign_free(parsed);
    HLM_ASSERT(strchr(hlm_timeline_csv(arena, timeline), '\n') != NULL);
    struct hlm_timeline again;
    const char *text = hlm_json_write(arena, &hlm_timeline_table, timeline, false);
    HLM_ASSERT(hlm_json_read_text(arena, "again", text, strlen(text), &hlm_timeline_table, &again,
                                  &err) == HLM_OK);
    HLM_ASSERT(strcmp(hlm_json_write(arena, &hlm_timeline_table, &again, false), text) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_timeline timeline;
    if (hlm_json_read_text(arena, "input", (const char *)data, size, &hlm_timeline_table, &timeline,
                           &err) == HLM_OK) {
        use(arena, &timeline);
    }
    hlm_arena_free(arena);
    return 0;
}
