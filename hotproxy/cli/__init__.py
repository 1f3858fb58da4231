"""The commands. One module per verb group, imported only when its verb is called.

main         the group, lazy loading, exit codes
place        where an instance keeps its files, and how the other verbs find it
line         one question to the supervisor, one answer
run          `run`, `proxy`: become a supervisor
lifecycle    `reload`, `stop`, `drain`, `reopen-logs`
worker       `worker recycle`
status       `status`, `listeners`
stats        `stats`
clusters     `clusters`
check        `check`
config       `config`
explain      `explain`: chosen (which config), request (which request, which listener), rehearsal (what becomes of it),
             story (told to people)
respond      `respond`
version      `version`
"""
