// Who works on what: a call that gives up the interpreter's lock claims the objects that it works on meanwhile, and
// every other call that would touch one of them is refused.
//
// All of this is read and written with the interpreter's lock held, so it needs no other.
#pragma once

#include <stdexcept>
#include <vector>

namespace sparse {

class Use {
 public:
  Use() = default;
  Use(const Use&) = delete;  // programs know it by its address
  Use& operator=(const Use&) = delete;

  // Throws std::runtime_error while a call in another thread works on the object.
  void require_free() const {
    if (taken_)
      throw std::runtime_error(
          "a call in another thread works on this object, or on what it needs; wait for it, or let every thread "
          "have "
          "objects of its own");
  }

 private:
  friend class Claim;
  bool taken_ = false;
};

// All of them, or none: then std::runtime_error is thrown. No use may be listed twice.
class Claim {
 public:
  explicit Claim(const std::vector<Use*>& uses) : uses_(uses) {
    for (const Use* use : uses_) use->require_free();
    for (Use* use : uses_) use->taken_ = true;
  }
  ~Claim() {
    for (Use* use : uses_) use->taken_ = false;
  }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

 private:
  const std::vector<Use*>& uses_;
};

}  // namespace sparse
