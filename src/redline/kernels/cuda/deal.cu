// Deals the keys of a decode step to the blocks of batch_attention.cu, once for all layers.
//
// Sequences that begin with the same pages, by a common prompt or as several answers to one, have what all of them share read by bundles, each
// for as many as have room in its matrix instructions. The host tells nothing of it: page tables do.
//
// Set by the compiler's command line: DEALERS (threads), SHARERS (most rows of which some may be bundled), LEAST_COMMON (tiles worth a bundle).

#include "line.cuh"
#include "scan.cuh"

struct Arguments {
    const int* context;        // [rows]: keys of each row's sequence, the new one included; 0 for none
    const int* page_table;     // [rows, table_stride]
    Entry* entries;            // see batch_attention.cu
    Member* members;
    int* first_tile;
    Start* starts;
    int rows, room, table_stride, blocks, page, size;  // tokens of a page, members of a bundle
};

// The tiles that two sequences have in common, behind which each has a key of its own that is in the cache, or one new one.
__device__ __forceinline__ int tiles_in_common(const Arguments& a, int row, int other) {
    const int most = min(a.context[row], a.context[other]) - 2, pages = (most + a.page - 1) / a.page;
    const int *own = a.page_table + (u64)row * a.table_stride, *others = a.page_table + (u64)other * a.table_stride;
    for (int begin = 0; begin < pages && row != other; begin += 8) {
        int same = 8;
#pragma unroll
        for (int i = 7; i >= 0; --i)
            if (own[min(begin + i, pages - 1)] != others[min(begin + i, pages - 1)]) same = i;
        if (same < 8) return (begin + same) * a.page / TILE;
    }
    return max(most, 0) / TILE;
}

// Entries of bundles and of all rows; how many of the room's first places are empty. Rows belong together that have the same page where the least that is
// worth a bundle ends: so they have all before it in common, and whoever leaves them earlier does not count. All that such rows have in common is read by bundles.
__device__ __forceinline__ int bundle_up(const Arguments& a) {
    __shared__ int pages[SHARERS], leaders[SHARERS], ranks[SHARERS], sizes[SHARERS], common[SHARERS];
    const int deepest = (LEAST_COMMON * TILE - 1) / a.page;
    for (int row = threadIdx.x; row < a.rows; row += DEALERS) {
        pages[row] = a.context[row] - 2 >= LEAST_COMMON * TILE ? a.page_table[(u64)row * a.table_stride + deepest] : -1 - row;
        sizes[row] = 0, common[row] = 1 << 30;
    }
    __syncthreads();
    for (int row = threadIdx.x; row < a.rows; row += DEALERS) {
        int leader = row, rank = 0;
        for (int other = row - 1; other >= 0; --other)
            if (pages[other] == pages[row]) leader = other, ++rank;
        leaders[row] = leader, ranks[row] = rank;
        atomicAdd(sizes + leader, 1);
        atomicMin(common + leader, tiles_in_common(a, row, leader));
    }
    __syncthreads();
    int used = 0;
    for (int begin = 0; begin < a.rows; begin += DEALERS) {
        const int row = begin + threadIdx.x;
        const bool worth = row < a.rows && sizes[row] >= a.size && common[row] >= LEAST_COMMON;
        int added;
        const int before = sum_before<DEALERS>(worth ? (sizes[row] + a.size - 1) / a.size : 0, added);
        if (row < a.rows) pages[row] = worth ? used + before : -1;  // of a leader: its first bundle
        used += added;
    }
    __syncthreads();
    const int empty = a.room - used;
    for (int row = threadIdx.x; row < a.rows; row += DEALERS) {
        const int leader = leaders[row], rank = ranks[row], context = a.context[row];
        Entry own = {row, context, 0, -1};
        if (pages[leader] >= 0) {
            const int place = empty + pages[leader] + rank / a.size, member = rank % a.size;
            own.skipped = common[leader], own.bundle = place * ROWS + member;
            if (member == 0) a.entries[place] = {row, common[leader] * TILE + 1, 0, -1};
            a.members[place * ROWS + member] = {row, context};
            for (int i = member + 1; rank == sizes[leader] - 1 && i < a.size; ++i) a.members[place * ROWS + i] = {-1, 0};
        }
        a.entries[a.room + row] = own;
    }
    __syncthreads();
    return empty;
}

extern "C" __global__ void __launch_bounds__(DEALERS) deal(const __grid_constant__ Arguments a) {
    let_next_kernel_start();
    wait_for_kernel_before();
    int empty = 0, total = 0;
    if (a.room)
        empty = bundle_up(a);
    else
        for (int row = threadIdx.x; row < a.rows; row += DEALERS) a.entries[row] = {row, a.context[row], 0, -1};
    const int all = a.room + a.rows;
    for (int begin = 0; begin < all; begin += DEALERS) {  // a thread's own entries, or behind the barriers of `bundle_up`
        const int place = begin + threadIdx.x;
        const int tiles = place < empty || place >= all ? 0 : tiles_of(a.entries[place].context) - a.entries[place].skipped;
        int added;
        const int before = sum_before<DEALERS>(tiles, added);
        if (place < all) a.first_tile[place] = total + before;
        total += added;
    }
    if (threadIdx.x == 0) a.first_tile[all] = total;
    __syncthreads();
    const u32 blocks = busy(a.blocks, total);
    for (int place = empty + threadIdx.x; place < all; place += DEALERS) {
        const int first = a.first_tile[place], next = a.first_tile[place + 1];
        if (first == next) continue;
        for (u32 block = ((u64)first * blocks + total - 1) / total; block < blocks && first_of(block, blocks, total) < next; ++block)
            a.starts[block] = {a.entries[place], place, first, next, 0};
    }
}
