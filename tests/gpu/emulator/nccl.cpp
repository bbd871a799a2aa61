/* NCCL among the threads of this process, as far as exec/cuda calls it. Operations run at the call,
 * which waits for the peers (a send does not: its data is kept). Every call says ncclInProgress,
 * and the communicator says so twice more, as non-blocking ones may. An aborted communicator makes
 * the calls of all its ranks fail. */
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda_bf16.h"
#include "nccl.h"

namespace
{

constexpr int NUM_POLLS = 2;

/* What the ranks of one communicator share. */
struct group {
    std::mutex lock;
    std::condition_variable changed;
    int size = 0, num_arrived = 0, num_open = 0;
    unsigned long generation = 0;
    bool aborted = false;
    std::vector<const void *> in;                                    /* [size] */
    std::vector<int> colors, keys;                                   /* [size], of a split */
    std::vector<std::vector<int>> splits;                            /* the colors of each */
    std::map<int, std::shared_ptr<group>> by_color;                  /* made by the last split */
    std::map<std::pair<int, int>, std::deque<std::string>> messages; /* by (sender, receiver) */
};

struct registry {
    std::mutex lock;
    std::map<std::string, std::shared_ptr<group>> groups;
    int num_ids = 0;
};

registry &all()
{
    static registry here;
    return here;
}

std::shared_ptr<group> new_group(int size)
{
    auto made = std::make_shared<group>();
    made->size = made->num_open = size;
    made->in.resize(static_cast<size_t>(size));
    made->colors.resize(static_cast<size_t>(size));
    made->keys.resize(static_cast<size_t>(size));
    return made;
}

size_t bytes_of(ncclDataType_t type)
{
    return type == ncclUint8 ? 1 : type == ncclBfloat16 ? 2 : type == ncclFloat32 ? 4 : 8;
}

} // namespace

struct emulated_rank {
    std::shared_ptr<group> shared;
    int rank = 0, polls = 0;
};

namespace
{

/* Waits until all ranks have come here; the last does `work` first. Lock held. */
template <class Work> bool meet(std::unique_lock<std::mutex> &held, group &shared, Work work)
{
    const unsigned long generation = shared.generation;
    if (++shared.num_arrived == shared.size) {
        shared.num_arrived = 0;
        work();
        shared.generation++;
        shared.changed.notify_all();
    }
    shared.changed.wait(held, [&] { return shared.generation != generation || shared.aborted; });
    return !shared.aborted;
}

ncclResult_t later(ncclComm_t comm, bool fine)
{
    comm->polls = NUM_POLLS;
    return fine ? ncclInProgress : ncclRemoteError;
}

double value_at(const void *data, size_t i, ncclDataType_t type)
{
    switch (type) {
    case ncclUint8:
        return static_cast<const unsigned char *>(data)[i];
    case ncclBfloat16:
        return static_cast<double>(__bfloat162float(static_cast<const __nv_bfloat16 *>(data)[i]));
    case ncclFloat32:
        return static_cast<double>(static_cast<const float *>(data)[i]);
    case ncclFloat64:
        break;
    }
    return static_cast<const double *>(data)[i];
}

void set_value(void *data, size_t i, ncclDataType_t type, double value)
{
    switch (type) {
    case ncclUint8:
        static_cast<unsigned char *>(data)[i] =
            static_cast<unsigned char>(static_cast<long>(value) & 255);
        return;
    case ncclBfloat16:
        static_cast<__nv_bfloat16 *>(data)[i] = __float2bfloat16_rn(static_cast<float>(value));
        return;
    case ncclFloat32:
        static_cast<float *>(data)[i] = static_cast<float>(value);
        return;
    case ncclFloat64:
        static_cast<double *>(data)[i] = value;
        return;
    }
}

/* out[i] of the ranks' elements first + i */
std::string reduced(const group &shared, size_t first, size_t count, ncclDataType_t type,
                    ncclRedOp_t op)
{
    std::string out(count * bytes_of(type), '\0');
    for (size_t i = 0; i < count; i++) {
        double result = value_at(shared.in[0], first + i, type);
        for (size_t rank = 1; rank < shared.in.size(); rank++) {
            const double other = value_at(shared.in[rank], first + i, type);
            const bool keeps = result != result || result > other;
            result = op == ncclSum ? result + other : keeps ? result : other;
        }
        set_value(&out[0], i, type, result);
    }
    return out;
}

/* Shows `in` to all, makes a result of what all show, and writes it once all have theirs. */
template <class Make> ncclResult_t exchange(ncclComm_t comm, const void *in, void *out, Make make)
{
    group &shared = *comm->shared;
    std::unique_lock<std::mutex> held(shared.lock);
    shared.in[static_cast<size_t>(comm->rank)] = in;
    bool fine = !shared.aborted && meet(held, shared, [] {});
    if (fine) {
        const std::string result = make(shared);
        fine = meet(held, shared, [] {});
        if (fine) {
            std::memcpy(out, result.data(), result.size());
        }
    }
    return later(comm, fine);
}

} // namespace

extern "C" {

ncclResult_t ncclGetVersion(int *version)
{
    *version = 22809;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    const std::lock_guard<std::mutex> held(all().lock);
    *id = {};
    const std::string text = std::to_string(++all().num_ids);
    std::memcpy(id->internal, text.data(), text.size());
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    return result == ncclRemoteError ? "remote process exited" : "an error";
}

const char *ncclGetLastError(ncclComm_t)
{
    return "none";
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    std::shared_ptr<group> shared;
    {
        const std::lock_guard<std::mutex> held(all().lock);
        std::shared_ptr<group> &found = all().groups[std::string(id.internal)];
        found = found == nullptr ? new_group(size) : found;
        shared = found;
    }
    if (config->blocking != 0 || rank < 0 || rank >= size || shared->size != size) {
        return ncclInvalidArgument;
    }
    *out = new emulated_rank{shared, rank, NUM_POLLS};
    std::unique_lock<std::mutex> held(shared->lock);
    return later(*out, meet(held, *shared, [] {}));
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *out,
                           ncclConfig_t *config)
{
    group &shared = *comm->shared;
    const size_t own = static_cast<size_t>(comm->rank);
    if (config->blocking != 0) {
        return ncclInvalidArgument;
    }
    std::unique_lock<std::mutex> held(shared.lock);
    shared.colors[own] = color;
    shared.keys[own] = key;
    bool fine = meet(held, shared, [&] {
        shared.splits.push_back(shared.colors);
        std::map<int, int> sizes;
        for (int of_rank : shared.colors) {
            sizes[of_rank]++;
        }
        shared.by_color.clear();
        for (const auto &size : sizes) {
            shared.by_color[size.first] = new_group(size.second);
        }
    });
    *out = nullptr;
    if (fine && color != NCCL_SPLIT_NOCOLOR) {
        int rank = 0;
        for (size_t i = 0; i < shared.colors.size(); i++) {
            const bool before = shared.keys[i] < key || (shared.keys[i] == key && i < own);
            rank += shared.colors[i] == color && before ? 1 : 0;
        }
        *out = new emulated_rank{shared.by_color[color], rank, NUM_POLLS};
    }
    fine = fine && meet(held, shared, [] {});
    return later(comm, fine);
}

int emulated_nccl_splits(ncclUniqueId id, int *colors, int most)
{
    const std::lock_guard<std::mutex> held(all().lock);
    const std::shared_ptr<group> world = all().groups[std::string(id.internal)];
    int num = 0;
    for (const std::vector<int> &split : world->splits) {
        if (num < most) {
            std::memcpy(colors + num * world->size, split.data(), split.size() * sizeof(int));
        }
        num++;
    }
    return num;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    return later(comm, true);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    {
        const std::lock_guard<std::mutex> held(comm->shared->lock);
        comm->shared->aborted = true;
        comm->shared->changed.notify_all();
    }
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    const std::lock_guard<std::mutex> held(comm->shared->lock);
    *state = comm->shared->aborted ? ncclRemoteError
             : comm->polls-- > 0   ? ncclInProgress
                                   : ncclSuccess;
    comm->polls = comm->polls < 0 ? 0 : comm->polls;
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *in, void *out, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t)
{
    return exchange(comm, in, out,
                    [&](const group &shared) { return reduced(shared, 0, count, type, op); });
}

ncclResult_t ncclAllGather(const void *in, void *out, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t)
{
    return exchange(comm, in, out, [&](const group &shared) {
        std::string gathered;
        for (const void *part : shared.in) {
            gathered.append(static_cast<const char *>(part), count * bytes_of(type));
        }
        return gathered;
    });
}

ncclResult_t ncclReduceScatter(const void *in, void *out, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t)
{
    return exchange(comm, in, out, [&](const group &shared) {
        return reduced(shared, static_cast<size_t>(comm->rank) * count, count, type, op);
    });
}

ncclResult_t ncclSend(const void *data, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t)
{
    group &shared = *comm->shared;
    const std::lock_guard<std::mutex> held(shared.lock);
    shared.messages[{comm->rank, peer}].emplace_back(static_cast<const char *>(data),
                                                     count * bytes_of(type));
    shared.changed.notify_all();
    return later(comm, !shared.aborted);
}

ncclResult_t ncclRecv(void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t)
{
    group &shared = *comm->shared;
    std::unique_lock<std::mutex> held(shared.lock);
    std::deque<std::string> &queue = shared.messages[{peer, comm->rank}];
    shared.changed.wait(held, [&] { return !queue.empty() || shared.aborted; });
    if (shared.aborted) {
        return later(comm, false);
    }
    const std::string message = queue.front();
    queue.pop_front();
    if (message.size() != count * bytes_of(type)) {
        return ncclInvalidUsage;
    }
    std::memcpy(data, message.data(), message.size());
    return later(comm, true);
}

} // extern "C"
