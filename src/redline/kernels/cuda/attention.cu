// Attention of one new token per sequence as a kernel of its own: see attention.cuh.

#include "attention.cuh"

extern "C" __global__ void __launch_bounds__(WALKERS) decode_attention(const __grid_constant__ attention::Arguments a) {
    using namespace attention;
    extern __shared__ __align__(16) u8 dynamic[];  // tiles, then the joined sums' values
    __shared__ __align__(16) Shared s;
    float* values = (float*)(dynamic + WARPS * TILES * 2 * TILE_ELEMENTS * 2);
    let_next_kernel_start();
    clear_queries(s);
    const Plan plan = *a.plan;
    const int items = plan.pairs * a.kv_heads;
    int number = blockIdx.x;
    if (number >= items) return wait_for_kernel_before();
    Item item = Item::at(a, number);
    Walk walk = walk_to(a, item, shared_address(dynamic), plan.chunk);
    wait_for_kernel_before();
    while (true) {
        const Sums sums = walk_item(a, s, walk, item, plan.chunk);
        const Item done = item;
        const int own = number;
        number += gridDim.x;
        if (number < items) {  // the next item's first tiles are on their way while this one's sums are joined
            item = Item::at(a, number);
            walk.move(item, plan.chunk);
        }
        finish(a, s, values, sums, own, done.sequence, done.head, done.context, plan.chunk);
        if (number >= items) return;
        sync_threads(1, WALKERS);
    }
}
