#include "emulator.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#ifndef __x86_64__
#include <ucontext.h>
#endif

/* Switches of coroutines are most of what an emulated kernel does, and swapcontext asks the kernel
 * for the signal mask at each (under AddressSanitizer it clears the shadow of the whole stack too).
 * So where we know the calling convention we keep what it says a call keeps, and nothing else. */
#ifdef __x86_64__
struct stack_place {
    void *top = nullptr;
};
extern "C" void emulated_switch(stack_place *from, const stack_place *to);
asm(".text\n"
    ".type emulated_switch, @function\n"
    "emulated_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq (%rsi), %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size emulated_switch, .-emulated_switch\n");
#else
using stack_place = ucontext_t;
static void emulated_switch(stack_place *from, const stack_place *to)
{
    swapcontext(from, to);
}
#endif

namespace
{

constexpr size_t STACK_BYTES = 256 * 1024;
constexpr int WARP = 32;

enum class wait { none, block, warp };

struct late_copy {
    void *to;
    const void *from;
    int bytes;
};

struct fiber {
    stack_place at;
    std::unique_ptr<char[]> stack;
    emulated_place place;
    wait waits = wait::none;
    bool done = false, vote = false;
    const char *kind = nullptr;
    std::vector<late_copy> issued, committed;
};

struct warp {
    emulated_cell cells[2][WARP];
    int turn = 0;
};

struct machine {
    std::vector<fiber> fibers;
    std::vector<warp> warps;
    std::unique_ptr<char[]> shared;
    const std::function<void()> *kernel = nullptr;
    stack_place scheduler;
    fiber *running = nullptr;
    unsigned num_threads = 0;
    bool vote = false, backwards = false;
};

/* One a thread of the program; launches inside of launches are not a thing. */
machine &self()
{
    static thread_local machine here;
    return here;
}

void pause(wait waits)
{
    machine &m = self();
    m.running->waits = waits;
    emulated_switch(&m.running->at, &m.scheduler);
}

/* One kernel after the other: what start_fiber lets run again goes on behind the switch. */
void thread_main()
{
    for (;;) {
        machine &m = self();
        (*m.kernel)();
        m.running->done = true;
        emulated_switch(&m.running->at, &m.scheduler);
    }
}

/* A stack that begins with thread_main at the first switch to it. */
void make_stack(fiber &f)
{
    f.stack.reset(new char[STACK_BYTES]);
#ifdef __x86_64__
    /* Popped registers, where `ret` goes, and the address that thread_main would return to: a
     * function begins 8 bytes off a multiple of 16. */
    constexpr size_t NUM_POPPED = 6;
    const uintptr_t end = reinterpret_cast<uintptr_t>(f.stack.get() + STACK_BYTES) & ~uintptr_t{15};
    void **top = reinterpret_cast<void **>(end) - (NUM_POPPED + 2);
    std::fill(top, top + NUM_POPPED + 2, nullptr);
    top[NUM_POPPED] = reinterpret_cast<void *>(thread_main);
    f.at.top = top;
#else
    getcontext(&f.at);
    f.at.uc_stack.ss_sp = f.stack.get();
    f.at.uc_stack.ss_size = STACK_BYTES;
    f.at.uc_link = nullptr;
    makecontext(&f.at, thread_main, 0);
#endif
}

void start_fiber(fiber &f)
{
    if (f.stack == nullptr) {
        make_stack(f);
    }
    f.done = false;
    f.waits = wait::none;
    f.issued.clear();
    f.committed.clear();
}

bool release_warp(machine &m, unsigned index)
{
    fiber *first = &m.fibers[index * WARP];
    for (int lane = 0; lane < WARP; lane++) {
        if (first[lane].waits != wait::warp || first[lane].done) {
            return false;
        }
    }
    for (int lane = 0; lane < WARP; lane++) {
        if (std::strcmp(first[lane].kind, first->kind) != 0) {
            m.running = &first[lane];
            emulated_fail("two kinds of exchange meet in one warp");
        }
        first[lane].waits = wait::none;
    }
    m.warps[index].turn ^= 1;
    return true;
}

bool release_block(machine &m)
{
    bool vote = false;
    for (unsigned i = 0; i < m.num_threads; i++) {
        if (m.fibers[i].waits != wait::block || m.fibers[i].done) {
            return false;
        }
        vote = vote || m.fibers[i].vote;
    }
    m.vote = vote;
    for (unsigned i = 0; i < m.num_threads; i++) {
        m.fibers[i].waits = wait::none;
    }
    return true;
}

/* Runs the threads of a warp that don't wait; false: there was none. */
bool run_threads(machine &m, unsigned index)
{
    bool ran = false;
    for (int k = 0; k < WARP; k++) {
        fiber &f = m.fibers[index * WARP + static_cast<unsigned>(m.backwards ? WARP - 1 - k : k)];
        if (!f.done && f.waits == wait::none) {
            m.running = &f;
            emulated_switch(&m.scheduler, &f.at);
            ran = true;
        }
    }
    return ran;
}

/* One warp after the other as far as it gets without the rest of the block: as far ahead of the
 * others as a real one could be. */
bool run_warps(machine &m)
{
    const unsigned num_warps = m.num_threads / WARP;
    bool ran = false;
    for (unsigned k = 0; k < num_warps; k++) {
        const unsigned index = m.backwards ? num_warps - 1 - k : k;
        do {
            ran = run_threads(m, index) || ran;
        } while (release_warp(m, index));
    }
    return ran;
}

const fiber *first_waiting(const machine &m)
{
    for (unsigned i = 0; i < m.num_threads; i++) {
        if (!m.fibers[i].done) {
            return &m.fibers[i];
        }
    }
    return nullptr;
}

void run_block(machine &m)
{
    while (first_waiting(m) != nullptr) {
        const bool ran = run_warps(m);
        if (!release_block(m) && !ran) {
            m.running = const_cast<fiber *>(first_waiting(m));
            emulated_fail("waits for threads that don't come");
        }
    }
}

} // namespace

const emulated_place *emulated_thread()
{
    return &self().running->place;
}

int emulated_lane()
{
    return static_cast<int>(self().running->place.thread.x % WARP);
}

void *emulated_shared()
{
    return self().shared.get();
}

void emulated_fail(const char *message)
{
    const emulated_place &at = self().running->place;
    std::fprintf(stderr, "emulator: thread %u of block (%u, %u, %u): %s\n", at.thread.x, at.block.x,
                 at.block.y, at.block.z, message);
    std::abort();
}

bool emulated_block_or(bool mine)
{
    self().running->vote = mine;
    pause(wait::block);
    return self().vote;
}

const emulated_cell *emulated_show(const char *kind, const void *value, size_t bytes)
{
    machine &m = self();
    warp &w = m.warps[m.running->place.thread.x / WARP];
    emulated_cell *cells = w.cells[w.turn];
    std::memcpy(cells[emulated_lane()].bytes, value, bytes);
    m.running->kind = kind;
    pause(wait::warp);
    return cells;
}

void emulated_copy(void *to, const void *from, int bytes)
{
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0) {
        emulated_fail("an asynchronous copy that is not aligned to 16 bytes");
    }
    self().running->issued.push_back({to, from, bytes});
}

void emulated_commit()
{
    fiber &f = *self().running;
    f.committed.insert(f.committed.end(), f.issued.begin(), f.issued.end());
    f.issued.clear();
}

void emulated_wait()
{
    fiber &f = *self().running;
    for (const late_copy &copy : f.committed) {
        std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
        std::memset(static_cast<char *>(copy.to) + copy.bytes, 0,
                    static_cast<size_t>(16 - copy.bytes));
    }
    f.committed.clear();
}

namespace
{

/* Kernels that asked for more shared memory than is given unasked. */
struct allowances {
    std::mutex mutex;
    std::map<const void *, size_t> bytes;
};

allowances &allowed()
{
    static allowances all;
    return all;
}

size_t allowance_of(const void *kernel)
{
    allowances &all = allowed();
    const std::lock_guard<std::mutex> guard(all.mutex);
    const auto found = all.bytes.find(kernel);
    return found == all.bytes.end() ? static_cast<size_t>(EMULATED_UNASKED_BYTES) : found->second;
}

void check_launch(const emulated_shape &shape, const void *kernel)
{
    const dim3 &blocks = shape.blocks;
    if (shape.threads == 0 || shape.threads > 1024 || shape.threads % WARP != 0 || blocks.x == 0 ||
        blocks.y == 0 || blocks.y > 65535 || blocks.z == 0 || blocks.z > 65535 ||
        shape.shared_bytes > allowance_of(kernel)) {
        std::fprintf(stderr,
                     "emulator: a launch of (%u, %u, %u) blocks of %u threads with %zu bytes\n",
                     blocks.x, blocks.y, blocks.z, shape.threads, shape.shared_bytes);
        std::abort();
    }
}

void run_grid(const emulated_shape &shape, const std::function<void()> &body)
{
    machine &m = self();
    const dim3 &blocks = shape.blocks;
    if (m.fibers.size() < shape.threads) {
        m.fibers.resize(shape.threads);
        m.warps.resize(shape.threads / WARP);
    }
    if (m.shared == nullptr) {
        m.shared.reset(new char[EMULATED_SHARED_BYTES]);
    }
    m.num_threads = shape.threads;
    m.kernel = &body;
    m.backwards = !m.backwards;
    for (unsigned block = 0; block < blocks.x * blocks.y * blocks.z; block++) {
        const dim3 at(block % blocks.x, block / blocks.x % blocks.y, block / blocks.x / blocks.y);
        std::memset(m.shared.get(), 0xFF, shape.shared_bytes);
        for (unsigned i = 0; i < shape.threads; i++) {
            m.fibers[i].place = {dim3(i, 0, 0), at, dim3(shape.threads), blocks};
            start_fiber(m.fibers[i]);
        }
        run_block(m);
    }
}

} // namespace

bool emulated_allow_shared(const void *kernel, int bytes)
{
    if (bytes < 0 || bytes > EMULATED_SHARED_BYTES) {
        return false;
    }
    allowances &all = allowed();
    const std::lock_guard<std::mutex> guard(all.mutex);
    all.bytes[kernel] = static_cast<size_t>(bytes);
    return true;
}

void emulate(const emulated_shape &shape, emulated_stream *stream, const void *kernel,
             const std::function<void()> &body)
{
    check_launch(shape, kernel);
    emulated_put(stream, [=] { run_grid(shape, body); });
}
