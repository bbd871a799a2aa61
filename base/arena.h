/* arena: memory with one lifetime.
 *
 * One arena per command: everything that is loaded or computed for it is allocated there and goes
 * at once. Objects in arenas refer to each other by index or by const pointer and are never freed
 * one by one. A search loop takes a mark and rewinds to it. Allocation never returns NULL: when the
 * system refuses memory the process prints so and exits with HLM_FAILED (nothing sensible can go
 * on).
 */
#ifndef HLM_BASE_ARENA_H
#define HLM_BASE_ARENA_H

#include <stdarg.h>
#include <stddef.h>

#include "base/err.h"

struct hlm_arena;

struct hlm_arena *hlm_arena_new(void);
void hlm_arena_free(struct hlm_arena *arena); /* NULL accepted */

/* `count` objects of `size` bytes, zeroed, aligned for any type (16). count 0 gives a valid pointer
 * to no objects. count * size is checked for overflow. */
void *hlm_arena_alloc(struct hlm_arena *arena, size_t count, size_t size);
#define HLM_ARENA_NEW(arena, type) ((type *)hlm_arena_alloc((arena), 1, sizeof(type)))
#define HLM_ARENA_ARRAY(arena, type, count)                                                        \
    ((type *)hlm_arena_alloc((arena), (size_t)(count), sizeof(type)))

char *hlm_arena_strdup(struct hlm_arena *arena, const char *text);
char *hlm_arena_strndup(struct hlm_arena *arena, const char *text, size_t length);
char *hlm_arena_printf(struct hlm_arena *arena, const char *format, ...) HLM_PRINTF(2, 3);
void *hlm_arena_memdup(struct hlm_arena *arena, const void *data, size_t size);

/* Everything allocated after the mark is released by the rewind; marks nest. */
struct hlm_arena_mark {
    void *block;
    size_t used;
};
struct hlm_arena_mark hlm_arena_mark(struct hlm_arena *arena);
void hlm_arena_rewind(struct hlm_arena *arena, struct hlm_arena_mark mark);

/* A text that grows in an arena, for writers. `text` is always terminated. */
struct hlm_text {
    struct hlm_arena *arena;
    char *text;
    size_t length, capacity;
};
void hlm_text_init(struct hlm_text *text, struct hlm_arena *arena);
void hlm_text_add(struct hlm_text *text, const char *bytes, size_t length);
void hlm_text_printf(struct hlm_text *text, const char *format, ...) HLM_PRINTF(2, 3);

#endif
