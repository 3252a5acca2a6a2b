// The sum of `value` over the threads of a block before this one; `total` is that over all.
template <int THREADS_OF_BLOCK>
__device__ int sum_before(int value, int& total) {
    __shared__ int sums[THREADS_OF_BLOCK / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int sum = value;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const int other = __shfl_up_sync(0xffffffff, sum, offset);
        if (lane >= offset) sum += other;
    }
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    int earlier = 0;
    total = 0;
#pragma unroll
    for (int w = 0; w < THREADS_OF_BLOCK / 32; ++w) {
        if (w < warp) earlier += sums[w];
        total += sums[w];
    }
    __syncthreads();
    return earlier + sum - value;
}
