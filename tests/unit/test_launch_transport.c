#include "exec/launch/launch_transport.h"
#include "tests/support/check.h"

static void test_choice(void **state)
{
    (void)state;
    static const struct {
        struct hlm_transport_question question;
        enum hlm_transport transport;
        const char *why; /* part of it; NULL: obvious */
    } cases[] = {
        {{.num_ranks = 4, .num_gpus = 0, .one_machine = true}, HLM_TRANSPORT_THREAD, NULL},
        {{.num_ranks = 1, .num_gpus = 0, .one_machine = true}, HLM_TRANSPORT_THREAD, NULL},
        {{.num_ranks = 1, .num_gpus = 8, .one_machine = true}, HLM_TRANSPORT_THREAD, NULL},
        {{.num_ranks = 4, .num_gpus = 1, .one_machine = true},
         HLM_TRANSPORT_THREAD,
         "fewer GPUs than ranks"},
        {{.num_ranks = 4, .num_gpus = 3, .one_machine = true},
         HLM_TRANSPORT_THREAD,
         "fewer GPUs than ranks"},
        {{.num_ranks = 4, .num_gpus = 4, .one_machine = true},
         HLM_TRANSPORT_NCCL,
         "each on a GPU of its own"},
        {{.num_ranks = 2, .num_gpus = 8, .one_machine = true},
         HLM_TRANSPORT_NCCL,
         "each on a GPU of its own"},
        {{.num_ranks = 4, .num_gpus = 4}, HLM_TRANSPORT_AUTO, NULL},
        {{.num_ranks = 4, .num_gpus = 0}, HLM_TRANSPORT_AUTO, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *why = "untouched";
        assert_int_equal(hlm_transport_choose(&cases[i].question, &why), cases[i].transport);
        assert_int_equal(why == NULL, cases[i].why == NULL);
        assert_true(why == NULL || strstr(why, cases[i].why) != NULL);
    }
}

static void test_texts(void **state)
{
    (void)state;
    assert_string_equal(hlm_transport_texts[HLM_TRANSPORT_NCCL], "nccl");
    assert_string_equal(hlm_transport_texts[HLM_TRANSPORT_THREAD], "thread");
    assert_null(hlm_transport_texts[HLM_TRANSPORT_THREAD + 1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
