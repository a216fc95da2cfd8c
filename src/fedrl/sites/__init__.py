"""A site of a federation: its agent, what it keeps on disk, and what it lets out.

site.toml --site_file--> federation, environment, MayLeave --agent--> SiteAgent <--messages--> coordinator
                                                                          |
                                            memory: state, update, roots  +  sent_log: every message that left
"""
