/* The reader of fronts: whatever is accepted must be written, and read back to the same text. */
#include <string.h>

#include "planner/front.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_front *front = NULL, *again = NULL;
    if (hlm_front_read_text(arena, "input", (const char *)data, size, &front, &err) == HLM_OK) {
        const char *text = hlm_json_write(arena, &hlm_front_table, front, false);
        HLM_ASSERT(hlm_front_read_text(arena, "again", text, strlen(text), &again, &err) == HLM_OK);
        HLM_ASSERT(strcmp(hlm_json_write(arena, &hlm_front_table, again, false), text) == 0);
    }
    hlm_arena_free(arena);
    return 0;
}
