#include "base/arena.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_POISON 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_POISON 1
#endif
#endif

/* Under AddressSanitizer what is not handed out is poisoned and objects stand apart, so that
 * running over the end of an object, or using one after a rewind, is found as it would be with
 * malloc. */
#ifdef ARENA_POISON
#include <sanitizer/asan_interface.h>
enum { RED_ZONE = 16 };
#else
#define ASAN_POISON_MEMORY_REGION(start, size) ((void)(start), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(start, size) ((void)(start), (void)(size))
enum { RED_ZONE = 0 };
#endif

enum { ALIGNMENT = 16, FIRST_BLOCK_BYTES = 64 << 10, LAST_BLOCK_BYTES = 4 << 20 };

struct block {
    struct block *below;
    size_t capacity, used;
    _Alignas(ALIGNMENT) unsigned char bytes[];
};

/* `spare` is the last block that a rewind emptied: a loop that marks and rewinds at the end of a
 * block would otherwise go to the system for one in every turn. */
struct hlm_arena {
    struct block *top, *spare;
    size_t next_block_bytes;
};

static _Noreturn void out_of_memory(size_t bytes)
{
    fprintf(stderr, "hlmplan: out of memory (%zu bytes refused)\n", bytes);
    exit(HLM_FAILED);
}

static void *checked_malloc(size_t bytes)
{
    void *memory = malloc(bytes);
    if (memory == NULL) {
        out_of_memory(bytes);
    }
    return memory;
}

static void block_free(struct block *block)
{
    if (block != NULL) {
        ASAN_UNPOISON_MEMORY_REGION(block->bytes, block->capacity);
        free(block);
    }
}

static struct block *block_new(size_t capacity)
{
    struct block *block = checked_malloc(sizeof *block + capacity);
    block->capacity = capacity;
    ASAN_POISON_MEMORY_REGION(block->bytes, capacity);
    return block;
}

static void push_block(struct hlm_arena *arena, size_t bytes)
{
    struct block *block = arena->spare;
    if (block != NULL && block->capacity >= bytes) {
        arena->spare = NULL;
    } else {
        block = block_new(bytes > arena->next_block_bytes ? bytes : arena->next_block_bytes);
        if (arena->next_block_bytes < LAST_BLOCK_BYTES) {
            arena->next_block_bytes *= 2;
        }
    }
    block->below = arena->top;
    block->used = 0;
    arena->top = block;
}

struct hlm_arena *hlm_arena_new(void)
{
    struct hlm_arena *arena = checked_malloc(sizeof *arena);
    *arena = (struct hlm_arena){.next_block_bytes = FIRST_BLOCK_BYTES};
    return arena;
}

void hlm_arena_free(struct hlm_arena *arena)
{
    if (arena == NULL) {
        return;
    }
    for (struct block *block = arena->top; block != NULL;) {
        struct block *below = block->below;
        block_free(block);
        block = below;
    }
    block_free(arena->spare);
    free(arena);
}

/* Not zeroed. */
static unsigned char *take(struct hlm_arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) {
        out_of_memory(SIZE_MAX);
    }
    const size_t taken = (bytes + RED_ZONE + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (arena->top == NULL || arena->top->capacity - arena->top->used < taken) {
        push_block(arena, taken);
    }
    unsigned char *memory = arena->top->bytes + arena->top->used;
    arena->top->used += taken;
    ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
    return memory;
}

void *hlm_arena_alloc(struct hlm_arena *arena, size_t count, size_t size)
{
    size_t bytes = 0;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        out_of_memory(SIZE_MAX);
    }
    return memset(take(arena, bytes), 0, bytes);
}

void *hlm_arena_memdup(struct hlm_arena *arena, const void *data, size_t size)
{
    void *copy = take(arena, size);
    if (size > 0) {
        memcpy(copy, data, size);
    }
    return copy;
}

char *hlm_arena_strndup(struct hlm_arena *arena, const char *text, size_t length)
{
    char *copy = hlm_arena_alloc(arena, length + 1, 1);
    memcpy(copy, text, length);
    return copy;
}

char *hlm_arena_strdup(struct hlm_arena *arena, const char *text)
{
    return hlm_arena_strndup(arena, text, strlen(text));
}

char *hlm_arena_printf(struct hlm_arena *arena, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    const int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    HLM_ASSERT(length >= 0);

    char *text = hlm_arena_alloc(arena, (size_t)length + 1, 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}

struct hlm_arena_mark hlm_arena_mark(struct hlm_arena *arena)
{
    struct block *top = arena->top;
    return (struct hlm_arena_mark){.block = top, .used = top == NULL ? 0 : top->used};
}

void hlm_arena_rewind(struct hlm_arena *arena, struct hlm_arena_mark mark)
{
    while (arena->top != mark.block) {
        struct block *block = arena->top;
        HLM_ASSERT(block != NULL);
        arena->top = block->below;
        ASAN_POISON_MEMORY_REGION(block->bytes, block->capacity);
        block_free(arena->spare);
        arena->spare = block;
    }
    if (arena->top != NULL) {
        HLM_ASSERT(mark.used <= arena->top->used);
        ASAN_POISON_MEMORY_REGION(arena->top->bytes + mark.used, arena->top->used - mark.used);
        arena->top->used = mark.used;
    }
}

void hlm_text_init(struct hlm_text *text, struct hlm_arena *arena)
{
    enum { FIRST_TEXT_BYTES = 256 };
    *text = (struct hlm_text){.arena = arena, .capacity = FIRST_TEXT_BYTES};
    text->text = hlm_arena_alloc(arena, text->capacity, 1);
}

/* Room for `length` more bytes and the terminator. */
static void text_reserve(struct hlm_text *text, size_t length)
{
    const size_t needed = text->length + length + 1;
    if (needed <= text->capacity) {
        return;
    }
    text->capacity = needed > 2 * text->capacity ? needed : 2 * text->capacity;
    char *grown = hlm_arena_alloc(text->arena, text->capacity, 1);
    memcpy(grown, text->text, text->length);
    text->text = grown;
}

void hlm_text_add(struct hlm_text *text, const char *bytes, size_t length)
{
    text_reserve(text, length);
    if (length > 0) {
        memcpy(text->text + text->length, bytes, length);
    }
    text->length += length;
    text->text[text->length] = '\0';
}

void hlm_text_printf(struct hlm_text *text, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    const size_t room = text->capacity - text->length;
    const int length = vsnprintf(text->text + text->length, room, format, args);
    va_end(args);
    HLM_ASSERT(length >= 0);

    if ((size_t)length >= room) {
        text_reserve(text, (size_t)length);
        vsnprintf(text->text + text->length, (size_t)length + 1, format, again);
    }
    va_end(again);
    text->length += (size_t)length;
}
