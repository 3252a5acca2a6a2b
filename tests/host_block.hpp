// One block of a CUDA kernel on a CPU: a thread for each of its threads. Enough for kernels of plain C++ with barriers, shuffles up and atomics on shared
// memory; instructions of a GPU's own are not there. `threads_of_block` is what the kernel is launched with.

#include <algorithm>
#include <barrier>
#include <mutex>
#include <thread>
#include <vector>

typedef unsigned u32;
typedef unsigned long long u64;
using std::max;
using std::min;

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__

struct Place {
    unsigned x;
};
static thread_local Place threadIdx;
static std::barrier<>* all_threads;
static std::mutex one_at_a_time;
static std::vector<int> shuffled(threads_of_block);

static void __syncthreads() { all_threads->arrive_and_wait(); }

static int __shfl_up_sync(u32, int value, int offset) {
    __syncthreads();
    shuffled[threadIdx.x] = value;
    __syncthreads();
    const int got = int(threadIdx.x % 32) >= offset ? shuffled[threadIdx.x - offset] : value;
    __syncthreads();
    return got;
}

static void atomicAdd(int* target, int value) {
    std::lock_guard<std::mutex> lock(one_at_a_time);
    *target += value;
}

static void atomicMin(int* target, int value) {
    std::lock_guard<std::mutex> lock(one_at_a_time);
    *target = min(*target, value);
}

static void let_next_kernel_start() {}
static void wait_for_kernel_before() {}

template <typename Kernel>
void run_block(Kernel kernel) {
    std::barrier<> barrier(threads_of_block);
    all_threads = &barrier;
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < threads_of_block; ++i)
        threads.emplace_back([=] {
            threadIdx.x = i;
            kernel();
        });
    for (std::thread& thread : threads) thread.join();
}
