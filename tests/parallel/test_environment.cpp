// Which rank a process is, by environments of torchrun, srun and neither.
#include <map>

#include "errors.h"
#include "parallel/environment.h"

namespace trestle {
namespace {

using Environment = std::map<std::string, std::string>;

RankEnvironment read(const Environment& variables) {
  return rank_environment([&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

Environment with(Environment base, const Environment& more) {
  for (const auto& [name, value] : more) base[name] = value;
  return base;
}

Environment without(Environment base, const std::string& name) {
  EXPECT_EQ(base.erase(name), 1U) << name;
  return base;
}

const Environment kTorchrun = {{"RANK", "5"},
                               {"WORLD_SIZE", "8"},
                               {"LOCAL_RANK", "1"},
                               {"LOCAL_WORLD_SIZE", "4"},
                               {"MASTER_ADDR", "head"},
                               {"MASTER_PORT", "29500"},
                               {"TORCHELASTIC_RESTART_COUNT", "2"},
                               {"TORCHELASTIC_RUN_ID", "none"},
                               {"TORCHELASTIC_USE_AGENT_STORE", "True"}};
// Of `srun -N 3 --ntasks-per-node 4` and 3 on the last.
const Environment kSlurm = {{"SLURM_JOB_ID", "4711234"},
                            {"SLURM_STEP_ID", "2"},
                            {"SLURM_NTASKS", "16"},
                            {"SLURM_STEP_NUM_TASKS", "11"},
                            {"SLURM_PROCID", "9"},
                            {"SLURM_LOCALID", "1"},
                            {"SLURM_NODEID", "2"},
                            {"SLURM_STEP_TASKS_PER_NODE", "4(x2),3"},
                            {"SLURM_NODELIST", "other[1-9]"},
                            {"SLURM_STEP_NODELIST", "node[03-05]"}};

TEST(RankEnvironment, IsOneProcessWhereNobodyStartedRanks) {
  for (const Environment& alone :
       {Environment{}, Environment{{"MASTER_ADDR", "head"}, {"RANK", ""}}}) {
    const RankEnvironment out = read(alone);
    EXPECT_EQ(out.rank, 0);
    EXPECT_EQ(out.size, 1);
    EXPECT_EQ(out.local_size, 1);
    EXPECT_EQ(out.master_address, "");
  }
}

TEST(RankEnvironment, IsTorchruns) {
  const RankEnvironment out = read(with(kSlurm, kTorchrun));
  EXPECT_EQ(out.rank, 5);
  EXPECT_EQ(out.size, 8);
  EXPECT_EQ(out.local_rank, 1);
  EXPECT_EQ(out.local_size, 4);
  EXPECT_EQ(out.master_address, "head");
  EXPECT_EQ(out.port, 29500);
  EXPECT_EQ(out.restart, 2);
  EXPECT_EQ(out.run_id, "none");
  EXPECT_TRUE(out.agent_store);
  EXPECT_FALSE(read(without(kTorchrun, "TORCHELASTIC_USE_AGENT_STORE")).agent_store);
  EXPECT_EQ(read({{"RANK", "0"}, {"WORLD_SIZE", "1"}}).size, 1);
}

TEST(RankEnvironment, HalfOfTorchrunsIsRefused) {
  for (const char* name :
       {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}) {
    SCOPED_TRACE(name);
    const std::string set = std::string(name) == "RANK" ? "WORLD_SIZE=8" : "RANK=5";
    EXPECT_REFUSED(read(without(kTorchrun, name)), set + " is set, and " + name + " is not");
    EXPECT_REFUSED(read(with(kTorchrun, {{name, ""}})), set + " is set, and " + name + " is not");
  }
  EXPECT_REFUSED(read({{"LOCAL_RANK", "0"}}), "LOCAL_RANK=0 is set, and WORLD_SIZE is not");
}

TEST(RankEnvironment, NonsenseOfTorchrunsIsRefused) {
  const std::vector<std::pair<Environment, std::vector<std::string>>> cases = {
      {{{"RANK", "8"}}, {"RANK=8", "WORLD_SIZE=8"}},
      {{{"RANK", "-1"}}, {"RANK=-1"}},
      {{{"RANK", "one"}}, {"RANK", "'one'"}},
      {{{"RANK", "0"}}, {"LOCAL_RANK=1", "RANK=0"}},
      {{{"WORLD_SIZE", "0"}}, {"WORLD_SIZE=0"}},
      {{{"LOCAL_RANK", "4"}}, {"LOCAL_RANK=4", "LOCAL_WORLD_SIZE=4"}},
      {{{"LOCAL_WORLD_SIZE", "9"}}, {"LOCAL_WORLD_SIZE=9", "WORLD_SIZE=8"}},
      {{{"MASTER_PORT", "65536"}}, {"MASTER_PORT=65536"}},
      {{{"MASTER_PORT", "0"}}, {"MASTER_PORT=0"}},
      {{{"TORCHELASTIC_RESTART_COUNT", "-1"}}, {"TORCHELASTIC_RESTART_COUNT=-1"}},
      {{{"TORCHELASTIC_USE_AGENT_STORE", "yes"}}, {"TORCHELASTIC_USE_AGENT_STORE=yes", "True"}}};
  for (const auto& [more, parts] : cases) {
    SCOPED_TRACE(more.begin()->first);
    testing::expect_mentions(testing::error_of([&] { read(with(kTorchrun, more)); }), parts);
  }
}

TEST(RankEnvironment, IsSruns) {
  const RankEnvironment out = read(kSlurm);
  EXPECT_EQ(out.rank, 9);
  EXPECT_EQ(out.size, 11);
  EXPECT_EQ(out.local_rank, 1);
  EXPECT_EQ(out.local_size, 3);
  EXPECT_EQ(out.master_address, "node03");
  EXPECT_EQ(out.port, 15000 + 1234 + 2 * 97);
  EXPECT_EQ(out.run_id, "4711234.2");
  EXPECT_FALSE(out.agent_store);
  const RankEnvironment chosen =
      read(with(kSlurm, {{"MASTER_ADDR", "10.0.0.1"}, {"MASTER_PORT", "1234"}}));
  EXPECT_EQ(chosen.master_address, "10.0.0.1");
  EXPECT_EQ(chosen.port, 1234);
}

TEST(RankEnvironment, ReadsWhatOlderSlurmsSet) {
  Environment older = without(without(kSlurm, "SLURM_STEP_NUM_TASKS"), "SLURM_STEP_TASKS_PER_NODE");
  older = without(older, "SLURM_STEP_NODELIST");
  older["SLURM_NTASKS_PER_NODE"] = "8";
  const RankEnvironment out = read(older);
  EXPECT_EQ(out.size, 16);
  EXPECT_EQ(out.local_size, 8);
  EXPECT_EQ(out.master_address, "other1");
}

TEST(RankEnvironment, AShellInAJobIsOneProcess) {
  EXPECT_EQ(read(without(kSlurm, "SLURM_STEP_ID")).size, 1);                 // salloc, sbatch
  EXPECT_EQ(read(with(kSlurm, {{"SLURM_STEP_ID", "4294967290"}})).size, 1);  // salloc's own step
  EXPECT_EQ(read(with(kSlurm, {{"SLURM_STEP_NUM_TASKS", "1"}})).size, 1);    // one task of a job
  EXPECT_EQ(read(with(kSlurm, {{"SLURM_PTY_PORT", "40000"}})).size, 1);      // srun --pty bash
}

TEST(RankEnvironment, NonsenseOfSrunsIsRefused) {
  for (const char* name : {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_ID"}) {
    SCOPED_TRACE(name);
    EXPECT_REFUSED(read(without(kSlurm, name)), "SLURM_STEP_ID=2", name);
  }
  EXPECT_REFUSED(read(without(without(kSlurm, "SLURM_STEP_NODELIST"), "SLURM_NODELIST")),
                 "SLURM_STEP_NODELIST");
  const std::vector<std::pair<Environment, std::vector<std::string>>> cases = {
      {{{"SLURM_PROCID", "11"}}, {"SLURM_PROCID=11", "11 tasks"}},
      {{{"SLURM_LOCALID", "3"}}, {"SLURM_LOCALID=3", "3 tasks"}},
      {{{"SLURM_LOCALID", "x"}}, {"SLURM_LOCALID", "'x'"}},
      {{{"SLURM_NODEID", "3"}}, {"SLURM_NODEID=3", "4(x2),3"}},
      {{{"SLURM_STEP_TASKS_PER_NODE", "4(x2"}}, {"SLURM_STEP_TASKS_PER_NODE=4(x2"}},
      {{{"SLURM_STEP_NODELIST", "node["}}, {"SLURM_STEP_NODELIST=node["}}};
  for (const auto& [more, parts] : cases) {
    SCOPED_TRACE(more.begin()->second);
    testing::expect_mentions(testing::error_of([&] { read(with(kSlurm, more)); }), parts);
  }
}

TEST(FirstHost, OfEveryFormOfAList) {
  for (const auto& [list, host] :
       std::map<std::string, std::string>{{"node1", "node1"},
                                          {"node1,node2", "node1"},
                                          {"node[03-05,7]", "node03"},
                                          {"node[7],a", "node7"},
                                          {"rack[1-2]-n[010-020].x", "rack1-n010.x"},
                                          {"10.0.0.1", "10.0.0.1"}}) {
    EXPECT_EQ(first_host("LIST", list), host);
  }
  for (const char* list : {"", ",a", "node[]", "node[a-b]", "node[1-2", "node1]", "a b"}) {
    EXPECT_REFUSED(first_host("LIST", list), std::string("LIST=") + list);
  }
}

TEST(TasksOfNode, OfEveryFormOfAList) {
  EXPECT_EQ(tasks_of_node("LIST", "8", 0), 8);
  EXPECT_EQ(tasks_of_node("LIST", "2(x3),1", 2), 2);
  EXPECT_EQ(tasks_of_node("LIST", "2(x3),1", 3), 1);
  for (const char* list : {"", "0", "a", "2(x", "2(x0)", "2(x3", "2x3", "2,,3"}) {
    EXPECT_REFUSED(tasks_of_node("LIST", list, 5), std::string("LIST=") + list);
  }
}

}  // namespace
}  // namespace trestle
