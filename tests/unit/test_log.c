#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "tests/support/check.h"

static void levels_above_the_chosen_one_are_dropped(void **state)
{
    (void)state;
    char *text = NULL;
    size_t length = 0;
    const struct hlm_log log = {.out = open_memstream(&text, &length), .level = HLM_LOG_WARN};
    hlm_log(&log, HLM_LOG_ERROR, "disk %d", 1);
    hlm_log(&log, HLM_LOG_WARN, "slow");
    hlm_log(&log, HLM_LOG_INFO, "hello");
    hlm_log(&log, HLM_LOG_DEBUG, "details");
    fclose(log.out);
    assert_string_equal(text, "hlmplan: error: disk 1\nhlmplan: warning: slow\n");
    free(text);
}

static void a_long_message_stays_one_line(void **state)
{
    (void)state;
    char *text = NULL;
    size_t length = 0;
    const struct hlm_log log = {.out = open_memstream(&text, &length), .level = HLM_LOG_DEBUG};
    hlm_log(&log, HLM_LOG_DEBUG, "%*d", 5000, 1);
    fclose(log.out);
    assert_true(length > 1000);
    assert_ptr_equal(strchr(text, '\n'), text + length - 1);
    free(text);
}

static void progress_is_silent_at_first(void **state)
{
    (void)state;
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    struct hlm_progress progress;
    hlm_progress_begin(&progress, out, "searching");
    hlm_progress_update(&progress, 1, 10, NULL);
    hlm_progress_end(&progress);
    fclose(out);
    assert_int_equal(length, 0);
    free(text);
}

/* Time is moved by dating the start back, not by waiting. */
static void progress_off_a_terminal_is_rare_plain_lines(void **state)
{
    (void)state;
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    struct hlm_progress progress;
    hlm_progress_begin(&progress, out, "searching");
    assert_false(progress.terminal);
    progress.start_s -= 3;
    hlm_progress_update(&progress, 5, 10, "best 3.2 s");
    hlm_progress_update(&progress, 6, 10, "best 3.1 s"); /* too soon */
    progress.last_s -= 11;
    hlm_progress_update(&progress, 1500, 0, NULL);
    hlm_progress_end(&progress);
    fclose(out);
    assert_string_equal(text, "searching: 5 of 10 (50 %), best 3.2 s\nsearching: 1.50 K\n");
    free(text);
}

static void progress_on_a_terminal_is_one_line_that_goes(void **state)
{
    (void)state;
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    struct hlm_progress progress;
    hlm_progress_begin(&progress, out, "searching");
    progress.terminal = true;
    progress.start_s -= 3;
    hlm_progress_update(&progress, 5, 10, NULL);
    progress.last_s -= 1;
    hlm_progress_update(&progress, 6, 10, NULL);
    hlm_progress_end(&progress);
    fclose(out);
    assert_string_equal(text, "\r\033[Ksearching: 5 of 10 (50 %)\r\033[Ksearching: 6 of 10 (60 %)"
                              "\r\033[K");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_above_the_chosen_one_are_dropped),
        cmocka_unit_test(a_long_message_stays_one_line),
        cmocka_unit_test(progress_is_silent_at_first),
        cmocka_unit_test(progress_off_a_terminal_is_rare_plain_lines),
        cmocka_unit_test(progress_on_a_terminal_is_one_line_that_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
