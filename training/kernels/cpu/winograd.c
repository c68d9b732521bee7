/* 3x3 convolutions of WIDTH -> WIDTH channels by Winograd's F(4x4, 3x3), and the gradient of their weights.
 *
 * Maps are float32, channels last. A map is cut into tiles of 4x4 outputs. The 6x6 inputs of a tile are transformed
 * along both axes; then the convolution is one product of WIDTH x WIDTH matrices for each of the 36 points instead of
 * one for each of 16 x 9 pairs of pixels: a quarter of the multiplications. docs/kernels.md has the matrices.
 *
 * BLOCK tiles are worked on at a time, so that what lies between the transforms stays in the second-level cache.
 */
#include <string.h>

#include "lanes.h"

enum { POINTS = 36, BLOCK = 24 };

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
    for (int c = 0; c < WIDTH; c += LANES) {
        lanes part[6][6];
        for (int i = 0; i < size; i++)
            for (int j = 0; j < size; j++) {
                int y = top + i, x = left + j;
                if (inside || (y >= 0 && x >= 0 && y < m->height && x < m->width))
                    part[j][i] = *(const lanes *)(origin + ((size_t)y * m->width + x) * WIDTH + c);
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
                *(lanes *)&to[6 * i + j][tile][c] = row[j];
        }
    }
}

static inline void store_tile(transformed from, int tile, float *out, int image, int top, int left, int height,
                              int width)
{
    float *origin = out + (size_t)image * height * width * WIDTH;
    for (int c = 0; c < WIDTH; c += LANES) {
        lanes part[6][6];
        for (int j = 0; j < 6; j++) {
            for (int i = 0; i < 6; i++)
                part[j][i] = *(lanes *)&from[6 * i + j][tile][c];
            from_points(part[j]);
        }
        for (int i = 0; i < 4 && top + i < height; i++) {
            lanes row[6];
            for (int j = 0; j < 6; j++)
                row[j] = part[j][i];
            from_points(row);
            for (int j = 0; j < 4 && left + j < width; j++)
                *(lanes *)(origin + ((size_t)(top + i) * width + left + j) * WIDTH + c) = row[j];
        }
    }
}

/* out[rows][vectors * LANES] (+)= x y: x(i, k) at x[i * step_i + k * step_k], rows of y and out are WIDTH apart. rows and
 * vectors are constants whose product is at most 12, so that the sums stay in sixteen registers. */
static inline __attribute__((always_inline)) void block_product(const int rows, const int vectors, const float *x,
                                                                int step_i, int step_k, const float *y, int depth,
                                                                float *out, int add)
{
    lanes sum[6][3];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            sum[i][j] = add ? *(lanes *)(out + i * WIDTH + j * LANES) : (lanes){0};
    for (int k = 0; k < depth; k++) {
        lanes row[3];
        for (int j = 0; j < vectors; j++)
            row[j] = *(const lanes *)(y + k * WIDTH + j * LANES);
        for (int i = 0; i < rows; i++) {
            float value = x[i * step_i + k * step_k];
            for (int j = 0; j < vectors; j++)
                sum[i][j] += value * row[j];
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            *(lanes *)(out + i * WIDTH + j * LANES) = sum[i][j];
}

/* As block_product, all WIDTH columns, two vectors at a time; an odd one joins the first two. rows: 4 or 6. */
static inline __attribute__((always_inline)) void product(const int rows, const float *x, int step_i, int step_k,
                                                          const float *y, int depth, float *out, int add)
{
    const int odd = VECTORS % 2 ? VECTORS < 3 ? 1 : 3 : 0, part = rows * odd > 12 ? rows / 2 : rows;
    if (odd)
        for (int i = 0; i < rows; i += part)
            block_product(part, odd, x + i * step_i, step_i, step_k, y, depth, out + i * WIDTH, add);
    for (int v = odd; v < VECTORS; v += 2)
        block_product(rows, 2, x, step_i, step_k, y + v * LANES, depth, out + v * LANES, add);
}

/* out (images, height + 2 padding - 2, ...) = x convolved with weights that are transformed already.
 * weights: [POINTS][WIDTH inputs][WIDTH outputs]. */
void convolve(const float *x, int images, int height, int width, int padding, const float *weights, float *out,
              int threads)
{
    int out_height = height + 2 * padding - 2, out_width = width + 2 * padding - 2;
    int down = (out_height + 3) / 4, across = (out_width + 3) / 4, tiles = images * down * across;
    map from = {x, images, height, width};
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int start = 0; start < tiles; start += BLOCK) {
        transformed in, result;
        int count = tiles - start < BLOCK ? tiles - start : BLOCK;
        if (count < BLOCK)
            memset(in, 0, sizeof in);
        for (int t = 0; t < count; t++) {
            int tile = start + t, column = tile % across, row = tile / across % down, image = tile / across / down;
            load_tile(&from, image, 4 * row - padding, 4 * column - padding, 6, to_points, in, t);
        }
        for (int p = 0; p < POINTS; p++)
            for (int i = 0; i < count; i += 6)
                product(6, in[p][i], WIDTH, 1, weights + (size_t)p * WIDTH * WIDTH, WIDTH, result[p][i], 0);
        for (int t = 0; t < count; t++) {
            int tile = start + t, column = tile % across, row = tile / across % down, image = tile / across / down;
            store_tile(result, t, out, image, 4 * row, 4 * column, out_height, out_width);
        }
    }
}

/* sums[c][POINTS][WIDTH inputs][WIDTH outputs]: for each chunk c of the tiles of y, a share of the gradient of the
 * transformed weights. Chunks are as many as the caller says, whatever the threads, so the result does not depend
 * on them. x: (images, height, width), the input of a convolution without padding; y: the gradient of its output. */
void correlate(const float *x, const float *y, int images, int height, int width, float *sums, int chunks, int threads)
{
    int out_height = height - 2, out_width = width - 2;
    int down = (out_height + 3) / 4, across = (out_width + 3) / 4, tiles = images * down * across;
    map inputs = {x, images, height, width}, outputs = {y, images, out_height, out_width};
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int chunk = 0; chunk < chunks; chunk++) {
        transformed in, out;
        float *sum = sums + (size_t)chunk * POINTS * WIDTH * WIDTH;
        int first = (long)tiles * chunk / chunks, end = (long)tiles * (chunk + 1) / chunks;
        memset(sum, 0, POINTS * WIDTH * WIDTH * sizeof *sum);
        for (int start = first; start < end; start += BLOCK) {
            int count = end - start < BLOCK ? end - start : BLOCK;
            for (int t = 0; t < count; t++) {
                int tile = start + t, column = tile % across, row = tile / across % down, image = tile / across / down;
                load_tile(&inputs, image, 4 * row, 4 * column, 6, to_points, in, t);
                load_tile(&outputs, image, 4 * row, 4 * column, 4, spread, out, t);
            }
            for (int p = 0; p < POINTS; p++)
                for (int i = 0; i < WIDTH; i += 4)
                    product(4, &in[p][0][i], 1, WIDTH, out[p][0], count, sum + ((size_t)p * WIDTH + i) * WIDTH, 1);
        }
    }
}
