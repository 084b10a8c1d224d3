#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>

#include <mamba/train/schedule.hpp>

using Catch::Approx;

TEST_CASE("the paper's learning rates") {
  const mamba::Schedule s;
  CHECK(s.at(0) == Approx(1e-5));
  CHECK(s.at(9) == Approx(2.26e-4));
  CHECK(s.at(10) == Approx(2.5e-4));
  CHECK(s.at(19) == Approx(2.4867e-4).epsilon(1e-4));
  CHECK(s.at(39) == Approx(2.3647e-4).epsilon(1e-4));
  CHECK(s.at(199) == Approx(1.002e-5).epsilon(1e-3));
  CHECK(s.at(200) == 1e-5);
  CHECK(s.at(5000) == 1e-5);
}

TEST_CASE("between two units the rate is on its way") {
  const mamba::Schedule s;
  CHECK(s.at(0.5) == Approx((s.at(0) + s.at(1)) / 2));
  CHECK(s.at(105.0) == Approx((s.lr + s.final_lr) / 2));  // half the cosine
  CHECK(s.at(104.5) > s.at(105));
  CHECK(s.at(199.99) > s.final_lr);
  for (const int unit : {0, 3, 10, 57, 199, 200}) CHECK(s.at(unit) == s.at(static_cast<double>(unit)));
}

TEST_CASE("schedules without warm-up, all warm-up, and impossible ones") {
  CHECK(mamba::Schedule{.initial_lr = 0, .lr = 1, .final_lr = 0, .warmup = 0, .total = 2}.at(0) == Approx(1));
  CHECK(mamba::Schedule{.initial_lr = 0, .lr = 1, .final_lr = 0, .warmup = 0, .total = 2}.at(1) == Approx(0.5));
  CHECK(mamba::Schedule{.initial_lr = 0, .lr = 1, .final_lr = 0, .warmup = 4, .total = 4}.at(3) == Approx(0.75));
  CHECK_THROWS_AS(mamba::Schedule{.warmup = 201}.check(), mamba::Error);
  CHECK_THROWS_AS((mamba::Schedule{.warmup = 0, .total = 0}.check()), mamba::Error);
  CHECK_THROWS_AS(mamba::Schedule{.lr = -1}.check(), mamba::Error);
}
