// freekv eval on a GPU.
#include "../eval/together.hpp"

namespace freekv::eval {
namespace {

TEST(DeviceEval, SamplesTogetherGiveTheRowsOfOneAtATime) {
  expect_the_rows_of_one_at_a_time("cuda");
}

}  // namespace
}  // namespace freekv::eval
