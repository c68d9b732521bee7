/* 3x3 convolutions of WIDTH -> WIDTH channels by Winograd's F(4x4, 3x3), and the gradient of their weights.
 *
 * Maps are float32, channels last. A map is cut into tiles of 4x4 outputs. The 6x6 inputs of a tile are transformed
 * along both axes; then the convolution is one product of WIDTH x WIDTH matrices for each of the 36 points instead of
 * one for each of 16 x 9 pairs of pixels: a quarter of the multiplications. docs/kernels.md has the matrices.
 *
 * BLOCK tiles are worked on at a time, so that what lies between the transforms stays in the second-level cache.
 */
#include <stdlib.h>
#include <string.h>

#include "critic.h"
#include "lanes.h"
#include "pool.h"

enum { POINTS = 36, BLOCK = 24, TILES_A_CHUNK = 48, MOST_CHUNKS = 16 };

typedef struct {
    const float *data;
    int images, height, width;
} map;

/* One row of WIDTH numbers for each tile at each point. The extra row keeps the points of a tile, which are written
 * together, from falling into the same few sets of the first-level cache. */
typedef float transformed[POINTS][BLOCK + 1][WIDTH];

static inline void to_points(lanes x[6])
{
    lanes even1 = x[4] - 4 * x[2], odd1 = x[3] - 4 * x[1];
    lanes even2 = x[4] - x[2], odd2 = 2 * (x[3] - x[1]);
    lanes first = 4 * x[0] - 5 * x[2] + x[4], last = 4 * x[1] - 5 * x[3] + x[5];
    x[0] = first;
    x[1] = even1 + odd1;
    x[2] = even1 - odd1;
    x[3] = even2 + odd2;
    x[4] = even2 - odd2;
    x[5] = last;
}

static inline void from_points(lanes x[6])
{
    lanes sum1 = x[1] + x[2], difference1 = x[1] - x[2];
    lanes sum2 = x[3] + x[4], difference2 = x[3] - x[4];
    x[0] = x[0] + sum1 + sum2;
    x[1] = difference1 + 2 * difference2;
    x[2] = sum1 + 4 * sum2;
    x[3] = difference1 + 8 * difference2 + x[5];
}

/* The transpose of from_points: four values spread over six points. */
static inline void spread(lanes x[6])
{
    lanes even1 = x[0] + x[2], odd1 = x[1] + x[3];
    lanes even2 = x[0] + 4 * x[2], odd2 = 2 * x[1] + 8 * x[3];
    x[5] = x[3];
    x[1] = even1 + odd1;
    x[2] = even1 - odd1;
    x[3] = even2 + odd2;
    x[4] = even2 - odd2;
}

/* Transforms the square of side `size` (6 or 4) whose corner is (top, left); zero outside the map. */
static inline void load_tile(const map *m, int image, int top, int left, int size, void (*transform)(lanes *),
                             transformed to, int tile)
{
    const float *origin = m->data + (size_t)image * m->height * m->width * WIDTH;
    int inside = top >= 0 && left >= 0 && top + size <= m->height && left + size <= m->width;
    for (int c = 0; c < VECTORS; c++) {
        lanes part[6][6];
        for (int i = 0; i < size; i++)
            for (int j = 0; j < size; j++) {
                int y = top + i, x = left + j;
                if (inside || (y >= 0 && x >= 0 && y < m->height && x < m->width))
                    part[j][i] = at(origin, (long)y * m->width + x, c);
                else
                    part[j][i] = (lanes){0};
            }
        for (int j = 0; j < size; j++)
            transform(part[j]);
        for (int i = 0; i < 6; i++) {
            lanes row[6];
            for (int j = 0; j < size; j++)
                row[j] = part[j][i];
            transform(row);
            for (int j = 0; j < 6; j++)
                put(to[6 * i + j][tile], 0, c, row[j]);
        }
    }
}

static inline void store_tile(transformed from, int tile, float *out, int image, int top, int left, int height,
                              int width)
{
    float *origin = out + (size_t)image * height * width * WIDTH;
    for (int c = 0; c < VECTORS; c++) {
        lanes part[6][6];
        for (int j = 0; j < 6; j++) {
            for (int i = 0; i < 6; i++)
                part[j][i] = at(from[6 * i + j][tile], 0, c);
            from_points(part[j]);
        }
        for (int i = 0; i < 4 && top + i < height; i++) {
            lanes row[6];
            for (int j = 0; j < 6; j++)
                row[j] = part[j][i];
            from_points(row);
            for (int j = 0; j < 4 && left + j < width; j++)
                put(origin, (long)(top + i) * width + left + j, c, row[j]);
        }
    }
}

/* out[rows][vectors * LANES] (+)= x y: x(i, k) at x[i * step_i + k * step_k], rows of y and out are WIDTH apart. rows and
 * vectors are constants whose product is at most SUMS_AT_ONCE, so that the sums stay in registers. */
static inline __attribute__((always_inline)) void block_product(const int rows, const int vectors, const float *x,
                                                                int step_i, int step_k, const float *y, int depth,
                                                                float *out, int add)
{
    lanes sum[SUMS_AT_ONCE][3];
    UNROLLED
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            sum[i][j] = add ? at(out, i, j) : (lanes){0};
    for (int k = 0; k < depth; k++) {
        lanes row[3];
        for (int j = 0; j < vectors; j++)
            row[j] = at(y, k, j);
        UNROLLED
        for (int i = 0; i < rows; i++) {
            float value = x[i * step_i + k * step_k];
            for (int j = 0; j < vectors; j++)
                sum[i][j] += value * row[j];
        }
    }
    UNROLLED
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            put(out, i, j, sum[i][j]);
}

/* The most rows that fit the registers and divide `all` rows. */
static inline __attribute__((always_inline)) int rows_at_once(const int vectors, const int all)
{
    int rows = SUMS_AT_ONCE / vectors;
    while (all % rows)
        rows--;
    return rows;
}

/* As block_product, at least `needed` of `all` rows and all WIDTH columns, two vectors at a time; an odd one joins the
 * first two, if there are any. */
static inline __attribute__((always_inline)) void product(const int all, int needed, const float *x, int step_i,
                                                          int step_k, const float *y, int depth, float *out, int add)
{
    const int odd = VECTORS % 2 ? VECTORS < 3 ? 1 : 3 : 0;
    if (odd) {
        const int rows = rows_at_once(odd, all);
        for (int i = 0; i < needed; i += rows)
            block_product(rows, odd, x + i * step_i, step_i, step_k, y, depth, out + i * WIDTH, add);
    }
    const int rows = rows_at_once(2, all);
    for (int v = odd; v < VECTORS; v += 2)
        for (int i = 0; i < needed; i += rows)
            block_product(rows, 2, x + i * step_i, step_i, step_k, y + v * LANES, depth,
                          out + i * WIDTH + v * LANES, add);
}

/* The three taps of a kernel at the six points, along one axis. */
static void taps_to_points(const double taps[3][WIDTH], double points[6][WIDTH])
{
    for (int c = 0; c < WIDTH; c++) {
        double first = taps[0][c], second = taps[1][c], third = taps[2][c];
        double even1 = (first + third) / 6, even2 = first / 24 + third / 6;
        points[0][c] = first / 4;
        points[1][c] = -even1 - second / 6;
        points[2][c] = -even1 + second / 6;
        points[3][c] = even2 + second / 12;
        points[4][c] = even2 - second / 12;
        points[5][c] = third;
    }
}

/* The transpose of taps_to_points. */
static void points_to_taps(const double points[6][WIDTH], double taps[3][WIDTH])
{
    for (int c = 0; c < WIDTH; c++) {
        double even1 = (points[1][c] + points[2][c]) / 6, even2 = points[3][c] + points[4][c];
        taps[0][c] = points[0][c] / 4 - even1 + even2 / 24;
        taps[1][c] = (points[2][c] - points[1][c]) / 6 + (points[3][c] - points[4][c]) / 12;
        taps[2][c] = points[5][c] - even1 + even2 / 6;
    }
}

/* weights (outputs, inputs, 3, 3) -> [POINTS][inputs][outputs]; for the gradient by the input with both swapped and the
 * kernel turned. */
static void transform_weights(const float *weights, int backwards, float *to)
{
    for (int i = 0; i < WIDTH; i++) {
        double taps[3][3][WIDTH], rows[3][6][WIDTH], column[3][WIDTH], points[6][WIDTH];
        for (int o = 0; o < WIDTH; o++)
            for (int t = 0; t < 9; t++)
                taps[t / 3][t % 3][o] =
                    backwards ? weights[((size_t)i * WIDTH + o) * 9 + 8 - t] : weights[((size_t)o * WIDTH + i) * 9 + t];
        for (int t = 0; t < 3; t++)
            taps_to_points(taps[t], rows[t]);
        for (int p = 0; p < 6; p++) {
            for (int t = 0; t < 3; t++)
                memcpy(column[t], rows[t][p], sizeof column[t]);
            taps_to_points(column, points);
            for (int q = 0; q < 6; q++)
                for (int o = 0; o < WIDTH; o++)
                    to[((size_t)(6 * q + p) * WIDTH + i) * WIDTH + o] = points[q][o];
        }
    }
}

typedef struct {
    map from;
    int padding, height, width, down, across, tiles; /* of the result, and its tiles */
    float *points, *out;
} convolution;

static void convolve_block(void *context, long block)
{
    const convolution *c = context;
    transformed in, result;
    int start = block * BLOCK, count = c->tiles - start < BLOCK ? c->tiles - start : BLOCK;
    if (count < BLOCK)
        memset(in, 0, sizeof in);
    for (int t = 0; t < count; t++) {
        int tile = start + t, column = tile % c->across, row = tile / c->across % c->down;
        load_tile(&c->from, tile / c->across / c->down, 4 * row - c->padding, 4 * column - c->padding, 6, to_points, in,
                  t);
    }
    for (int p = 0; p < POINTS; p++)
        product(BLOCK, count, in[p][0], WIDTH, 1, c->points + (size_t)p * WIDTH * WIDTH, WIDTH, result[p][0], 0);
    for (int t = 0; t < count; t++) {
        int tile = start + t, column = tile % c->across, row = tile / c->across % c->down;
        store_tile(result, t, c->out, tile / c->across / c->down, 4 * row, 4 * column, c->height, c->width);
    }
}

void convolve(const float *x, int images, int height, int width, int backwards, const float *weights, float *out,
              int threads)
{
    int padding = backwards ? 2 : 0, out_height = height + 2 * padding - 2, out_width = width + 2 * padding - 2;
    int down = (out_height + 3) / 4, across = (out_width + 3) / 4, tiles = images * down * across;
    float *points = malloc(sizeof *points * POINTS * WIDTH * WIDTH);
    convolution c = {{x, images, height, width}, padding, out_height, out_width, down, across, tiles, points, out};
    transform_weights(weights, backwards, points);
    share(convolve_block, &c, (tiles + BLOCK - 1) / BLOCK, threads);
    free(points);
}

typedef struct {
    map inputs, outputs;
    int down, across, tiles, chunks;
    float *sums; /* [chunks][POINTS][WIDTH inputs][WIDTH outputs] */
} correlation;

static void correlate_chunk(void *context, long chunk)
{
    const correlation *c = context;
    transformed in, out;
    float *sum = c->sums + (size_t)chunk * POINTS * WIDTH * WIDTH;
    int first = c->tiles * chunk / c->chunks, end = c->tiles * (chunk + 1) / c->chunks;
    memset(sum, 0, POINTS * WIDTH * WIDTH * sizeof *sum);
    for (int start = first; start < end; start += BLOCK) {
        int count = end - start < BLOCK ? end - start : BLOCK;
        for (int t = 0; t < count; t++) {
            int tile = start + t, column = tile % c->across, row = tile / c->across % c->down;
            int image = tile / c->across / c->down;
            load_tile(&c->inputs, image, 4 * row, 4 * column, 6, to_points, in, t);
            load_tile(&c->outputs, image, 4 * row, 4 * column, 4, spread, out, t);
        }
        for (int p = 0; p < POINTS; p++)
            product(WIDTH, WIDTH, in[p][0], 1, WIDTH, out[p][0], count, sum + (size_t)p * WIDTH * WIDTH, 1);
    }
}

/* Chunks are as many as the tiles want, whatever the threads, so the result does not depend on them. */
void convolve_weights(const float *x, const float *gradient, int images, int height, int width, float *by_weights,
                      int threads)
{
    int down = (height + 1) / 4, across = (width + 1) / 4, tiles = images * down * across;
    int chunks = tiles / TILES_A_CHUNK < 1 ? 1 : tiles / TILES_A_CHUNK < MOST_CHUNKS ? tiles / TILES_A_CHUNK : MOST_CHUNKS;
    float *sums = malloc(sizeof *sums * chunks * POINTS * WIDTH * WIDTH);
    correlation c = {{x, images, height, width}, {gradient, images, height - 2, width - 2}, down, across, tiles, chunks,
                     sums};
    share(correlate_chunk, &c, chunks, threads);
    for (int i = 0; i < WIDTH; i++) {
        double column[6][WIDTH], rows[3][6][WIDTH], taps[3][WIDTH];
        for (int p = 0; p < 6; p++) {
            for (int q = 0; q < 6; q++)
                for (int o = 0; o < WIDTH; o++) {
                    column[q][o] = 0;
                    for (int chunk = 0; chunk < chunks; chunk++)
                        column[q][o] += sums[(((size_t)chunk * POINTS + 6 * q + p) * WIDTH + i) * WIDTH + o];
                }
            points_to_taps(column, taps);
            for (int t = 0; t < 3; t++)
                memcpy(rows[t][p], taps[t], sizeof taps[t]);
        }
        for (int t = 0; t < 3; t++) {
            points_to_taps(rows[t], taps);
            for (int u = 0; u < 3; u++)
                for (int o = 0; o < WIDTH; o++)
                    by_weights[((size_t)o * WIDTH + i) * 9 + 3 * t + u] = taps[u][o];
        }
    }
    free(sums);
}
