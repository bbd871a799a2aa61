#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/rng.h"
#include "tests/support/check.h"

static void objects_are_zeroed_and_aligned(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t size = 1; size < 3000; size += 7) {
        unsigned char *bytes = hlm_arena_alloc(arena, size, 1);
        assert_int_equal((uintptr_t)bytes % 16, 0);
        for (size_t i = 0; i < size; i++) {
            assert_int_equal(bytes[i], 0);
        }
        memset(bytes, 0xA5, size);
    }
    hlm_arena_free(arena);
    hlm_arena_free(NULL);
}

/* Objects of random sizes, large ones included, keep what was written to them. */
static void objects_do_not_overlap(void **state)
{
    (void)state;
    enum { NUM = 300 };
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_rng rng = {.key = 7};
    unsigned char *objects[NUM];
    size_t sizes[NUM];
    for (int i = 0; i < NUM; i++) {
        sizes[i] = (size_t)hlm_rng_next_int(&rng, 0, i % 50 == 0 ? 300000 : 500);
        objects[i] = hlm_arena_alloc(arena, sizes[i], 1);
        memset(objects[i], i & 0xFF, sizes[i]);
    }
    for (int i = 0; i < NUM; i++) {
        for (size_t k = 0; k < sizes[i]; k++) {
            assert_int_equal(objects[i][k], i & 0xFF);
        }
    }
    hlm_arena_free(arena);
}

static void no_objects_is_a_valid_pointer(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    assert_non_null(hlm_arena_alloc(arena, 0, 8));
    assert_non_null(hlm_arena_memdup(arena, NULL, 0));
    hlm_arena_free(arena);
}

static void rewind_gives_the_same_memory_again(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    int *kept = HLM_ARENA_NEW(arena, int);
    *kept = 42;
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    int *first = HLM_ARENA_ARRAY(arena, int, 10);
    first[9] = 9;
    hlm_arena_rewind(arena, mark);
    int *second = HLM_ARENA_ARRAY(arena, int, 10);
    assert_ptr_equal(first, second);
    assert_int_equal(second[9], 0); /* zeroed again */
    assert_int_equal(*kept, 42);
    hlm_arena_free(arena);
}

static void marks_nest_over_many_blocks(void **state)
{
    (void)state;
    enum { CHUNK = 40000 };
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_arena_mark empty = hlm_arena_mark(arena);
    char *outer = hlm_arena_alloc(arena, CHUNK, 1);
    memset(outer, 'o', CHUNK);
    const struct hlm_arena_mark middle = hlm_arena_mark(arena);
    for (int turn = 0; turn < 50; turn++) {
        for (int i = 0; i < 20; i++) {
            memset(hlm_arena_alloc(arena, CHUNK, 1), 'x', CHUNK);
        }
        hlm_arena_rewind(arena, middle);
        assert_int_equal(outer[CHUNK - 1], 'o');
    }
    hlm_arena_rewind(arena, empty);
    assert_int_equal(((char *)hlm_arena_alloc(arena, CHUNK, 1))[0], 0);
    hlm_arena_free(arena);
}

static void texts_are_copies(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    char word[] = "layers";
    char *whole = hlm_arena_strdup(arena, word), *part = hlm_arena_strndup(arena, word, 3);
    word[0] = '?';
    assert_string_equal(whole, "layers");
    assert_string_equal(part, "lay");
    assert_string_equal(hlm_arena_printf(arena, "%s-%03d", "a", 7), "a-007");
    const int numbers[] = {1, 2, 3};
    assert_memory_equal(hlm_arena_memdup(arena, numbers, sizeof numbers), numbers, sizeof numbers);
    hlm_arena_free(arena);
}

static void text_grows(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_text text;
    hlm_text_init(&text, arena);
    assert_string_equal(text.text, "");
    for (int i = 0; i < 5000; i++) {
        hlm_text_printf(&text, "%d,", i % 10);
        hlm_text_add(&text, "\0z", 2); /* bytes, not a string */
    }
    assert_int_equal(text.length, 5000 * 4);
    for (size_t i = 0; i < 5000; i++) {
        assert_int_equal(text.text[4 * i], '0' + (char)(i % 10));
        assert_int_equal(text.text[4 * i + 2], '\0');
        assert_int_equal(text.text[4 * i + 3], 'z');
    }
    assert_int_equal(text.text[text.length], '\0');
    hlm_arena_free(arena);
}

static void one_print_larger_than_the_capacity(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_text text;
    hlm_text_init(&text, arena);
    hlm_text_add(&text, "ab", 2);
    hlm_text_printf(&text, "%*d", 10000, 5);
    assert_int_equal(text.length, 10002);
    assert_memory_equal(text.text, "ab  ", 4);
    assert_string_equal(text.text + 10000, " 5");
    hlm_arena_free(arena);
}

static void impossible_size_ends_the_process(void **state)
{
    (void)state;
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        fclose(stderr);
        static struct hlm_arena *volatile arena; /* reachable: no leak to a leak checker */
        arena = hlm_arena_new();
        hlm_arena_alloc(arena, SIZE_MAX / 4, 8);
        _exit(0);
    }
    int how = 0;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), HLM_FAILED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_are_zeroed_and_aligned),
        cmocka_unit_test(objects_do_not_overlap),
        cmocka_unit_test(no_objects_is_a_valid_pointer),
        cmocka_unit_test(rewind_gives_the_same_memory_again),
        cmocka_unit_test(marks_nest_over_many_blocks),
        cmocka_unit_test(texts_are_copies),
        cmocka_unit_test(text_grows),
        cmocka_unit_test(one_print_larger_than_the_capacity),
        cmocka_unit_test(impossible_size_ends_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
