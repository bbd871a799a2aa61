#include "exec/rank_options.h"

#include <stddef.h>

#include "costmodel/lowering.h"
#include "exec/backend_choice.h"
#include "exec/comm/comm_emulate.h"
#include "exec/launch/launch_transport.h"

static const char *const emulate_delay_texts[] = {
#define X(name, text) text,
    HLM_EMULATE_DELAY_MAP(X)
#undef X
        NULL};

static const char *const graphs_texts[] = {"auto", "off", NULL};
static const char *const messages_texts[] = {"predicted", "measured", NULL};

#define AT(member) .offset = offsetof(struct hlm_rank_options, member)
static const struct hlm_opt options_table[] = {
    {.name = "plan", .type = HLM_OPT_STRING, AT(plan), .arg = "FILE", .help = "the plan to run"},
    {.name = "profile",
     .type = HLM_OPT_STRING,
     AT(profile),
     .arg = "DIR",
     .help = "measure this machine and write its profile there"},
    {.name = "join",
     .type = HLM_OPT_STRING,
     AT(join),
     .arg = "A,B,...",
     .help = "of a profile: measure the links between ranks alone, and join these clusters, one a "
             "rank"},
    {.name = "repeat-operators",
     .type = HLM_OPT_INT64,
     AT(repeat_operators),
     .def = "1",
     .arg = "K",
     .min = 1,
     .max = 1000,
     .help = "profile a device that runs every operator K times (a plan says its own)"},
    {.name = "quick", .type = HLM_OPT_FLAG, AT(quick), .help = "profile in less time"},
    {.name = "ranks",
     .type = HLM_OPT_INT64,
     AT(ranks),
     .def = "1",
     .arg = "N",
     .min = 1,
     .max = 4096,
     .help = "ranks of a profile (a plan says its own)"},
    {.name = "backend",
     .type = HLM_OPT_ENUM,
     AT(backend),
     .def = "auto",
     .arg = "NAME",
     .enums = hlm_backend_choice_texts,
     .help = "where operators run"},
    {.name = "transport",
     .type = HLM_OPT_ENUM,
     AT(transport),
     .def = "auto",
     .arg = "NAME",
     .enums = hlm_transport_texts,
     .help = "how ranks talk; auto: as threads of this process, or where a launcher has started "
             "one of them, over NCCL or MPI"},
    {.name = "products",
     .type = HLM_OPT_STRING,
     AT(products),
     .arg = "FILE",
     .help = "algorithms for products that a profile has kept"},
    {.name = "graphs",
     .type = HLM_OPT_ENUM,
     AT(graphs),
     .def = "auto",
     .arg = "WHEN",
     .enums = graphs_texts,
     .help = "passes as graphs: where the backend has them, or never"},
    {.name = "data",
     .type = HLM_OPT_STRING,
     AT(data),
     .arg = "FILE",
     .help = "text to train on, read as bytes; synthetic tokens when absent"},
    {.name = "steps",
     .type = HLM_OPT_INT64,
     AT(steps),
     .def = "10",
     .arg = "N",
     .min = 1,
     .max = 1e6,
     .help = "training steps, warm-up included"},
    {.name = "warmup",
     .type = HLM_OPT_INT64,
     AT(warmup),
     .def = "2",
     .arg = "N",
     .min = 0,
     .max = 1e6,
     .help = "first steps that do not count"},
    {.name = "seed",
     .type = HLM_OPT_INT64,
     AT(seed),
     .def = "1234",
     .arg = "N",
     .min = 0,
     .max = 9e15,
     .help = "of parameters and data"},
    {.name = "virtual-time",
     .type = HLM_OPT_FLAG,
     AT(virtual_time),
     .help = "measure by CPU time, as if every rank had a core"},
    {.name = "messages",
     .type = HLM_OPT_ENUM,
     AT(messages),
     .def = "predicted",
     .arg = "WHENCE",
     .enums = messages_texts,
     .help = "in virtual time: messages between stages as the plan has them, or measured by "
             "themselves"},
    {.name = "routing",
     .type = HLM_OPT_ENUM,
     AT(routing),
     .def = "topk",
     .arg = "HOW",
     .enums = hlm_routing_texts + HLM_ROUTING_TOPK,
     .help = "how rows come to experts: by their scores, or in turn whatever these say"},
    {.name = "emulate-rank",
     .type = HLM_OPT_INT64,
     AT(emulate_rank),
     .def = "-1",
     .arg = "R",
     .min = -1,
     .max = INT32_MAX,
     .help = "run this rank of the plan alone, its peers made up"},
    {.name = "emulate-delay",
     .type = HLM_OPT_ENUM,
     AT(emulate_delay),
     .def = "predicted",
     .arg = "DELAY",
     .enums = emulate_delay_texts,
     .help = "whether an emulated rank waits as long as the plan predicts"},
    {.name = "timeout",
     .type = HLM_OPT_DOUBLE,
     AT(timeout_s),
     .def = "60",
     .arg = "SECONDS",
     .min = 0.1,
     .max = 1e6,
     .help = "longest wait for a peer without progress"},
    {.name = "output",
     .letter = 'o',
     .type = HLM_OPT_STRING,
     AT(output),
     .arg = "FILE",
     .help = "where rank 0 writes the measurement"},
    {.name = "count-gpus",
     .type = HLM_OPT_FLAG,
     AT(count_gpus),
     .help = "print how many GPUs there are to compute on, and end"},
    {0}};

const struct hlm_command hlm_rank_command = {
    .name = "",
    .summary = "executes the ranks of a plan",
    .description =
        "Executes the ranks of a plan that `hlmplan plan` made, or measures the machine. "
        "Usually started by `hlmplan run` or `hlmplan profile`.",
    .example = "mpirun -np 4 hlmplan-rank --transport mpi --plan plan.json -o measured.json",
    .opts = options_table,
    .options_size = sizeof(struct hlm_rank_options)};

enum hlm_status hlm_rank_options_check(const struct hlm_rank_options *options, struct hlm_err *err)
{
    if ((options->plan == NULL) == (options->profile == NULL)) {
        return hlm_fail(err, HLM_USAGE, "expected either --plan FILE or --profile DIR");
    }
    if (options->join != NULL && options->profile == NULL) {
        return hlm_fail(err, HLM_USAGE, "--join needs --profile DIR");
    }
    if (options->emulate_rank >= 0 && options->plan == NULL) {
        return hlm_fail(err, HLM_USAGE, "--emulate-rank needs --plan FILE");
    }
    if (options->warmup >= options->steps) {
        return hlm_fail(err, HLM_USAGE, "--warmup %lld leaves none of %lld steps to measure",
                        (long long)options->warmup, (long long)options->steps);
    }
    return HLM_OK;
}
