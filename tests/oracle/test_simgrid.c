/* The simulator against SimGrid: our traces replayed by smpirun give the step time of hlm_simulate
 * within 0.1 %. Skipped where SimGrid is not installed. */
#include <stdlib.h>
#include <unistd.h>

#include "base/rng.h"
#include "schedule/simgrid.h"
#include "tests/support/pipeline.h"

static const char *const replay_mains[] = {
    "/usr/lib/x86_64-linux-gnu/simgrid/smpireplaymain",
    "/usr/lib/aarch64-linux-gnu/simgrid/smpireplaymain", "/usr/lib/simgrid/smpireplaymain",
    "/usr/local/lib/simgrid/smpireplaymain", "/usr/libexec/simgrid/smpireplaymain"};

static const char *find_replay_main(void)
{
    for (size_t i = 0; i < sizeof replay_mains / sizeof replay_mains[0]; i++) {
        if (access(replay_mains[i], X_OK) == 0) {
            return replay_mains[i];
        }
    }
    return NULL;
}

static void write_file(struct hlm_arena *arena, const char *folder, const char *name,
                       const char *text)
{
    FILE *file = fopen(hlm_arena_printf(arena, "%s/%s", folder, name), "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void write_files(struct hlm_arena *arena, const char *folder,
                        const struct hlm_simgrid_cluster *cluster,
                        const struct hlm_simgrid_program *programs)
{
    write_file(arena, folder, "platform.xml", hlm_simgrid_platform(arena, cluster));
    write_file(arena, folder, "hosts.txt", hlm_simgrid_hosts(arena, cluster->num_ranks));
    write_file(arena, folder, "ranks.txt", hlm_simgrid_ranks(arena, cluster->num_ranks));
    for (int32_t rank = 0; rank < cluster->num_ranks; rank++) {
        write_file(arena, folder, hlm_simgrid_trace_name(arena, rank),
                   hlm_simgrid_trace(arena, rank, &programs[rank]));
    }
}

static void remove_files(struct hlm_arena *arena, const char *folder, int32_t num_ranks)
{
    const char *const names[] = {"platform.xml", "hosts.txt", "ranks.txt"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_int_equal(unlink(hlm_arena_printf(arena, "%s/%s", folder, names[i])), 0);
    }
    for (int32_t rank = 0; rank < num_ranks; rank++) {
        const char *name = hlm_simgrid_trace_name(arena, rank);
        assert_int_equal(unlink(hlm_arena_printf(arena, "%s/%s", folder, name)), 0);
    }
    assert_int_equal(rmdir(folder), 0);
}

/* The number behind "Simulation time" in what the command prints. */
static double run_command(const char *command)
{
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    char output[4096];
    const size_t length = fread(output, 1, sizeof output - 1, pipe);
    output[length] = '\0';
    const int status = pclose(pipe);
    const char *found = strstr(output, "Simulation time ");
    if (status != 0 || found == NULL) {
        fail_msg("\"%s\" ended with %d and printed \"%s\"", command, status, output);
    }
    return strtod(found + strlen("Simulation time "), NULL);
}

static double replay(struct hlm_arena *arena, const struct hlm_simgrid_cluster *cluster,
                     const struct hlm_simgrid_program *programs)
{
    const char *parent = getenv("TMPDIR");
    char *folder =
        hlm_arena_printf(arena, "%s/hlmplan-simgrid-XXXXXX", parent == NULL ? P_tmpdir : parent);
    assert_non_null(mkdtemp(folder));
    write_files(arena, folder, cluster, programs);
    const char *command = hlm_simgrid_command(arena, cluster->num_ranks, find_replay_main());
    const double seconds =
        run_command(hlm_arena_printf(arena, "cd %s && %s 2>&1", folder, command));
    remove_files(arena, folder, cluster->num_ranks);
    return seconds;
}

/* A pipeline with tensor and data parallelism around it, replayed and predicted. */
struct experiment {
    const char *name;
    enum hlm_schedule_kind kind;
    int32_t pp, num_microbatches, tp, dp;
    double forward_s, backward_s, spread; /* stage s takes (1 + spread * uniform) of them */
    int64_t message_bytes, tp_bytes, dp_bytes;
    int32_t forward_all_reduces, backward_all_reduces;
};

static double *spread_out(struct hlm_arena *arena, const struct experiment *experiment,
                          int32_t num_stages, double seconds, uint64_t key)
{
    double *values = HLM_ARENA_ARRAY(arena, double, num_stages);
    for (int32_t stage = 0; stage < num_stages; stage++) {
        values[stage] = seconds * (1 + experiment->spread * hlm_rng_uniform(key, (uint64_t)stage));
    }
    return values;
}

static int64_t *same_bytes(struct hlm_arena *arena, int32_t count, int64_t bytes)
{
    int64_t *values = HLM_ARENA_ARRAY(arena, int64_t, count);
    for (int32_t i = 0; i < count; i++) {
        values[i] = bytes;
    }
    return values;
}

static void add_rings(const struct hlm_simgrid_cluster *cluster, double *seconds,
                      int32_t num_stages, int32_t count, int32_t tp, double bytes)
{
    const double ring =
        hlm_simgrid_ring_seconds(cluster, HLM_SIMGRID_ALL_REDUCE, tp, bytes) * count;
    for (int32_t stage = 0; stage < num_stages; stage++) {
        seconds[stage] += ring;
    }
}

struct durations {
    double *forward_s, *backward_s, *input_grad_s, *weight_grad_s;
};

static struct hlm_sim_costs costs_of(const struct durations *durations)
{
    return (struct hlm_sim_costs){.forward_s = durations->forward_s,
                                  .backward_s = durations->backward_s,
                                  .input_grad_s = durations->input_grad_s,
                                  .weight_grad_s = durations->weight_grad_s};
}

static double predict(struct hlm_arena *arena, const struct experiment *experiment,
                      const struct hlm_simgrid_cluster *cluster,
                      const struct hlm_schedule *schedule, const struct durations *durations)
{
    const int32_t num_stages = schedule->num_stages;
    const double tp_bytes = (double)experiment->tp_bytes;
    add_rings(cluster, durations->forward_s, num_stages, experiment->forward_all_reduces,
              experiment->tp, tp_bytes);
    add_rings(cluster, durations->backward_s, num_stages, experiment->backward_all_reduces,
              experiment->tp, tp_bytes);
    add_rings(cluster, durations->input_grad_s, num_stages, experiment->backward_all_reduces,
              experiment->tp, tp_bytes);
    const double c = cluster->alpha_s + (double)experiment->message_bytes / cluster->bytes_per_s;
    const double reduce_s = hlm_simgrid_ring_seconds(cluster, HLM_SIMGRID_ALL_REDUCE,
                                                     experiment->dp, (double)experiment->dp_bytes);
    struct hlm_sim_costs costs = costs_of(durations);
    costs.send_forward_s = pipeline_fill(arena, num_stages, c);
    costs.send_backward_s = pipeline_fill(arena, num_stages, c);
    costs.needs_both_sides = pipeline_both_sides(arena, num_stages);
    costs.reduce_s = pipeline_fill(arena, num_stages, reduce_s);
    return pipeline_run(arena, schedule, &costs).reduce_end_s;
}

static void check_experiment(struct hlm_arena *arena, const struct experiment *experiment)
{
    const int32_t pp = experiment->pp;
    const struct hlm_simgrid_cluster cluster = {
        .num_ranks = pp * experiment->tp * experiment->dp, .alpha_s = 10e-6, .bytes_per_s = 10e9};
    const struct hlm_schedule *schedule =
        pipeline_build(arena, experiment->kind, pp, experiment->num_microbatches);
    const int32_t num_stages = schedule->num_stages;
    const struct durations durations = {
        spread_out(arena, experiment, num_stages, experiment->forward_s, 1),
        spread_out(arena, experiment, num_stages, experiment->backward_s, 2),
        spread_out(arena, experiment, num_stages, 0.6 * experiment->backward_s, 3),
        spread_out(arena, experiment, num_stages, 0.4 * experiment->backward_s, 4)};
    const struct hlm_sim_costs compute = costs_of(&durations);
    const struct hlm_simgrid_job job = {
        .schedule = schedule,
        .costs = &compute,
        .send_forward_bytes = same_bytes(arena, num_stages, experiment->message_bytes),
        .send_backward_bytes = same_bytes(arena, num_stages, experiment->message_bytes),
        .tp = experiment->tp,
        .dp = experiment->dp,
        .forward_all_reduces = experiment->forward_all_reduces,
        .backward_all_reduces = experiment->backward_all_reduces,
        .tp_bytes = same_bytes(arena, num_stages, experiment->tp_bytes),
        .dp_bytes = same_bytes(arena, num_stages, experiment->dp_bytes)};
    const double simgrid_s = replay(arena, &cluster, hlm_simgrid_programs(arena, &job));
    const double ours_s = predict(arena, experiment, &cluster, schedule, &durations);
    print_message("%-28s SimGrid %.6f s, ours %.6f s, %+.4f %%\n", experiment->name, simgrid_s,
                  ours_s, 100 * (ours_s / simgrid_s - 1));
    check_close(ours_s, simgrid_s, 1e-3);
}

static const struct experiment pipelines[] = {
    {"1f1b, 8 equal stages", HLM_SCHEDULE_1F1B, 8, 32, 1, 1, 10e-3, 20e-3, 0, 4194304, 0, 0, 0, 0},
    {"1f1b, 64 equal stages", HLM_SCHEDULE_1F1B, 64, 32, 1, 1, 10e-3, 20e-3, 0, 4194304, 0, 0, 0,
     0},
    {"1f1b, 256 equal stages", HLM_SCHEDULE_1F1B, 256, 32, 1, 1, 10e-3, 20e-3, 0, 4194304, 0, 0, 0,
     0},
    {"1f1b, 8 unequal stages", HLM_SCHEDULE_1F1B, 8, 32, 1, 1, 10e-3, 20e-3, 0.5, 4194304, 0, 0, 0,
     0},
    {"1f1b, 64 unequal stages", HLM_SCHEDULE_1F1B, 64, 32, 1, 1, 10e-3, 20e-3, 0.5, 4194304, 0, 0,
     0, 0},
    {"1f1b, 256 unequal stages", HLM_SCHEDULE_1F1B, 256, 32, 1, 1, 10e-3, 20e-3, 0.5, 4194304, 0, 0,
     0, 0},
    {"1f1b, fewer than stages", HLM_SCHEDULE_1F1B, 8, 3, 1, 1, 10e-3, 20e-3, 0.5, 4194304, 0, 0, 0,
     0},
    {"gpipe, 8 equal stages", HLM_SCHEDULE_GPIPE, 8, 32, 1, 1, 10e-3, 20e-3, 0, 4194304, 0, 0, 0,
     0},
    {"gpipe, 64 unequal stages", HLM_SCHEDULE_GPIPE, 64, 32, 1, 1, 10e-3, 20e-3, 0.5, 4194304, 0, 0,
     0, 0},
};

/* The other kinds: chunks, halves. */
static const struct experiment kinds[] = {
    {"1f1b-overlap", HLM_SCHEDULE_1F1B_OVERLAP, 8, 32, 1, 1, 10e-3, 20e-3, 0.5, 4194304, 0, 0, 0,
     0},
    {"interleaved", HLM_SCHEDULE_INTERLEAVED, 8, 32, 1, 1, 10e-3, 20e-3, 0.5, 4194304, 0, 0, 0, 0},
    {"zb-h1", HLM_SCHEDULE_ZB_H1, 8, 32, 1, 1, 10e-3, 20e-3, 0.5, 4194304, 0, 0, 0, 0},
    {"zb-h2", HLM_SCHEDULE_ZB_H2, 8, 32, 1, 1, 10e-3, 20e-3, 0.5, 4194304, 0, 0, 0, 0},
    {"zb-v", HLM_SCHEDULE_ZB_V, 8, 32, 1, 1, 10e-3, 20e-3, 0.5, 4194304, 0, 0, 0, 0},
    {"v-half", HLM_SCHEDULE_V_HALF, 8, 32, 1, 1, 10e-3, 20e-3, 0.5, 4194304, 0, 0, 0, 0},
    {"v-min", HLM_SCHEDULE_V_MIN, 8, 32, 1, 1, 10e-3, 20e-3, 0.5, 4194304, 0, 0, 0, 0},
};

/* Messages are small against compute here: where one shares a link with a ring (a gradient that
 * travels while its sender already reduces), SimGrid halves the bandwidth of both and our
 * simulator, which has no contention between kinds of traffic, does not. */
static const struct experiment combined[] = {
    {"8 ranks: tp 2, dp 2, pp 2", HLM_SCHEDULE_1F1B, 2, 8, 2, 2, 10e-3, 20e-3, 0.3, 1048576,
     4194304, 67108864, 4, 4},
    {"64 ranks: tp 4, dp 4, pp 4", HLM_SCHEDULE_1F1B, 4, 16, 4, 4, 10e-3, 20e-3, 0.3, 1048576,
     4194304, 67108864, 4, 4},
    {"64 ranks: tp 2, dp 4, pp 8, gpipe", HLM_SCHEDULE_GPIPE, 8, 8, 2, 4, 10e-3, 20e-3, 0.3,
     1048576, 1000003, 33554433, 2, 3},
};

static void test_pipelines(void **state)
{
    for (size_t i = 0; i < sizeof pipelines / sizeof pipelines[0]; i++) {
        check_experiment(*state, &pipelines[i]);
    }
}

static void test_kinds(void **state)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        check_experiment(*state, &kinds[i]);
    }
}

static void test_combined(void **state)
{
    for (size_t i = 0; i < sizeof combined / sizeof combined[0]; i++) {
        check_experiment(*state, &combined[i]);
    }
}

/* Every collective alone, against the ring formula. */
static void test_rings(void **state)
{
    struct hlm_arena *arena = *state;
    const int32_t sizes[] = {2, 5, 8, 32};
    for (enum hlm_simgrid_kind kind = HLM_SIMGRID_ALL_REDUCE; kind < HLM_SIMGRID_NUM_KINDS;
         kind++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            const int32_t n = sizes[i];
            const struct hlm_simgrid_cluster cluster = {n, 10e-6, 10e9};
            int32_t *members = HLM_ARENA_ARRAY(arena, int32_t, n);
            struct hlm_simgrid_program *programs =
                HLM_ARENA_ARRAY(arena, struct hlm_simgrid_program, n);
            const struct hlm_simgrid_item item = {
                .kind = kind, .bytes = 67108864, .members = members, .num_members = n};
            for (int32_t rank = 0; rank < n; rank++) {
                members[rank] = rank;
                programs[rank] = (struct hlm_simgrid_program){&item, 1};
            }
            check_close(replay(arena, &cluster, programs),
                        hlm_simgrid_ring_seconds(&cluster, kind, n, 67108864), 1e-3);
        }
    }
}

int main(void)
{
    if (system("command -v smpirun > /dev/null 2>&1") != 0 || find_replay_main() == NULL) {
        fprintf(stderr, "SimGrid's smpirun or smpireplaymain not found: skipped\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        pipeline_test(test_pipelines),
        pipeline_test(test_kinds),
        pipeline_test(test_combined),
        pipeline_test(test_rings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
